"""The suite `optim` checks before it times, measures bytes and temporaries, and says what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from narrowgauge.bench import optim
from narrowgauge.bench.llama_shapes import LEAST
from narrowgauge.bench.optim_peer_steps import PEERS
from narrowgauge.bench.report import SuiteResult
from narrowgauge.kernels.codecs import CODECS

QUICK: dict[str, Any] = {"parameters": LEAST, "repetitions": 9, "compiled": False}


@pytest.fixture(scope="module")
def result() -> SuiteResult:
    return optim.run_suite(states=("log8", "coat"), **QUICK)


def test_the_baseline_has_ratio_one_and_the_bytes_of_float32(result: SuiteResult) -> None:
    (row,) = (row for row in result.rows if row.name == result.baseline)
    assert row.ratio == row.figures["ratio_of_best"] == 1.0
    assert row.figures["bytes_per_parameter"] == pytest.approx(8.0, abs=0.01)
    assert row.figures["static_bytes"] == pytest.approx(16.0, abs=0.01)


def test_every_row_has_times_of_the_clock_and_of_the_processor(result: SuiteResult) -> None:
    for row in result.rows:
        assert row.figures["milliseconds"] > 0.0
        assert row.figures["cpu_ns_per_parameter"] > 0.0


def test_every_competitor_is_timed_or_skipped_with_a_reason(result: SuiteResult) -> None:
    expected = {"torch fused", "torch foreach", "log8", "log8, compiled", "coat", "coat, compiled", *PEERS}
    assert {row.name for row in result.rows} | set(result.skipped) == expected
    assert result.skipped["log8, compiled"] == "left out as asked"


def test_bytes_are_those_of_the_live_state(result: SuiteResult) -> None:
    rows = {row.name: row.figures for row in result.rows}
    assert rows["log8"]["bytes_per_parameter"] == pytest.approx(2.047, abs=0.02)
    assert rows["coat"]["bytes_per_parameter"] == pytest.approx(2.125, abs=0.02)
    # bfloat16 weights and gradients, an int8 residual, the state
    assert rows["log8"]["static_bytes"] == pytest.approx(2 + 2 + 1 + 2.047, abs=0.02)


def test_foreach_needs_temporaries_and_the_fused_step_none(result: SuiteResult) -> None:
    rows = {row.name: row.figures["temporary_percent"] for row in result.rows}
    assert rows["torch fused"] < 1.0
    assert rows["torch foreach"] > 10.0


def test_a_codec_that_breaks_its_contract_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = optim.named_codec

    class Halves:
        def __init__(self, name: str) -> None:
            self.codec = right(name)
            self.first, self.second, self.stochastic = self.codec.first, self.codec.second, self.codec.stochastic
            self.group = self.codec.group

        def store(self, m: Any, v: Any, seed: int = 0) -> Any:
            return self.codec.store(m, v, seed)

        def load(self, state: Any) -> Any:
            m, v = self.codec.load(state)
            return -np.asarray(m), v

    monkeypatch.setattr(optim, "named_codec", Halves)
    with pytest.raises(AssertionError, match=r"m sign (lost|flipped)"):
        optim.run_suite(states=("int8",), **QUICK)


def test_states_within_tensor_subclasses_are_counted() -> None:
    inner = torch.zeros(10)

    class Wrapped(torch.Tensor):
        def __tensor_flatten__(self) -> tuple[list[str], None]:
            return ["part"], None

    wrapped = torch.zeros(1).as_subclass(Wrapped)
    wrapped.part = inner  # type: ignore[attr-defined]
    found = list(optim._tensors({"p": {"step": 3, "moment": wrapped, "other": [inner, None]}}))
    assert len(found) == 2
    assert all(tensor is inner for tensor in found)


def test_unknown_states_and_small_models_are_refused() -> None:
    with pytest.raises(ValueError, match="log9"):
        optim.run_suite(states=("log9",), **QUICK)
    with pytest.raises(ValueError, match="parameters: expected at least"):
        optim.run_suite(10, states=("fp32",), repetitions=9)


@pytest.mark.slow
def test_compiled_steps_are_timed_after_they_were_compared() -> None:
    result = optim.run_suite(LEAST, ("log8",), repetitions=9, peers=False)
    assert "log8, compiled" in {row.name for row in result.rows}


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_may_be_timed(name: str) -> None:
    """What a codec is published with must not keep the suite, which stops at what is wrong, from the others."""
    assert optim.check_state(name) is None
