"""The suite `train` times whole steps of training, and says what they quantise."""

from __future__ import annotations

import math

import pytest
import torch

from narrowgauge.bench import train_step
from narrowgauge.bench.ceilings import Probes
from narrowgauge.bench.train_step import Step, model_flops, run_suite, sizes
from narrowgauge.nn import QuantLinear, recipe
from narrowgauge.train import Llama

SMALL = {"width": 64, "layers": 1, "batch": 1, "tokens": 32, "peers": False,
         "probes": Probes(size=32, copy_bytes=1 << 16)}  # fmt: skip


def a_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(256, (1, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def test_rows_are_measured_against_float32() -> None:
    seen, kept = [], []
    result = run_suite(["fp8_row", recipe("mine", x="int4/1x32")], **SMALL, show=lambda *at: seen.append(at),
                       save=lambda so_far: kept.append(len(so_far.rows)))  # fmt: skip
    assert kept == [2, 3]
    assert [row.name for row in result.rows] == ["fp32", "fp8_row", "mine"]
    assert seen == [(0, 2, "fp8_row"), (1, 2, "mine")]
    assert result.rows[0].ratio == 1.0
    assert result.rows[0].figures["sqnr_db"] == math.inf
    assert 15 < result.rows[1].figures["sqnr_db"] < 40
    assert all(row.figures["milliseconds"] > 0 for row in result.rows)
    for row in result.rows:
        seconds = row.timing.median
        share = 100 * row.figures["tflop_per_s"] / result.ceilings["float32_tflop_per_s"]
        assert row.figures["peak_percent"] == pytest.approx(share)
        assert row.figures["tokens_per_s"] == pytest.approx(32 / seconds)
        assert row.figures["tflop_per_s"] == pytest.approx(32 * model_flops(Llama(sizes(64, 1, 32))) / seconds / 1e12)
    assert result.settings["parameters"] == Llama(sizes(64, 1, 32)).num_parameters()
    assert result.skipped == {}


def test_a_call_is_a_step_of_training() -> None:
    step = Step(Llama(sizes(64, 1, 8), seed=0), a_batch())
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    step()
    assert all(not torch.equal(p, before[name]) for name, p in step.model.named_parameters() if p.ndim > 1)
    assert step.gradients().numel() == sum(p.numel() for p in step.model.parameters())


def test_work_is_six_flops_a_token_for_each_weight_that_multiplies() -> None:
    config = sizes(64, 2, 8)
    block = 4 * 64 * 64 + 3 * 64 * config.ffn_dim
    assert model_flops(Llama(config)) == 6 * (2 * block + 64 * config.vocab_size)


def test_gradients_do_not_add_up() -> None:
    step = Step(Llama(sizes(64, 1, 8), seed=0), a_batch())
    assert torch.equal(step.gradients(), step.gradients())


def test_what_a_peer_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(model):
        raise ValueError("is not installed\nreally")

    def other(model):
        model.layers[0].mlp.up_proj = QuantLinear.from_linear(model.layers[0].mlp.up_proj, "fp8_row")
        return model

    monkeypatch.setattr(train_step, "PEERS", {"absent": absent, "other": other})
    result = run_suite([], **{**SMALL, "peers": True})
    assert [row.name for row in result.rows] == ["fp32", "other"]
    assert result.skipped == {"absent": "is not installed"}


def test_compiled_rows_without_a_compiler_are_said_to_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "why_not_compiled", lambda wanted, device: "no compiler")
    result = run_suite(["fp8_row"], **SMALL, compiled=True)
    assert result.skipped == {"fp32, compiled": "no compiler", "fp8_row, compiled": "no compiler"}
    assert run_suite(["fp8_row"], **SMALL).skipped == {}


def test_a_wrong_product_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(op, device) -> None:
        raise AssertionError(f"{op.name}: 1 of 6 elements are out of bound")

    monkeypatch.setattr(train_step, "check_samples", wrong)
    with pytest.raises(AssertionError, match="scaled_gemm"):
        run_suite(["fp8_row"], **SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["fp8_rwo"],), "nearest: fp8_row"),
        ((None, 96), "width: expected a multiple of 64, got 96"),
    ],
)
def test_mistakes_are_refused(arguments, message: str) -> None:
    recipes, width = (*arguments, 64)[:2]
    with pytest.raises(ValueError, match=message):
        run_suite(recipes, **{**SMALL, "width": width})


def test_sizes_are_those_of_a_llama() -> None:
    config = sizes(512, 4, 256)
    assert (config.num_heads, config.ffn_dim, config.max_seq_len) == (8, 1408, 256)
