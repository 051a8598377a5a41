"""Test vectors hold, and a codec that is off by a little fails them."""

from __future__ import annotations

from typing import Any

from narrowgauge.bench.optim_peers import LOG8_TO_NEAREST, STATE_PEERS
from narrowgauge.bench.optim_quality.vectors import check_vectors

LEAST = 60


def failing(ours: dict[str, Any]) -> list[str]:
    return [line.name for line in check_vectors(ours) if not line.ok]


def test_all_of_the_formats_and_models_hold() -> None:
    lines = check_vectors({})
    assert len(lines) >= LEAST
    assert [line.name for line in lines if not line.ok] == []
    assert len({line.name for line in lines}) == len(lines)


def test_a_coat_that_is_off_by_a_thousandth_fails() -> None:
    class Off:
        def store(self, m: Any, v: Any, seed: int = 0) -> Any:
            return STATE_PEERS["COAT, released kernel"].store(m, v, seed)

        def load(self, state: Any) -> Any:
            m, v = STATE_PEERS["COAT, released kernel"].load(state)
            return 1.001 * m, v

    assert failing({"coat": STATE_PEERS["COAT, released kernel"]}) == []
    assert any(name.startswith("coat, m") for name in failing({"coat": Off()}))


def test_a_log8_that_rounds_to_nearest_fails_the_mean_over_seeds_alone() -> None:
    assert failing({"log8": LOG8_TO_NEAREST}) == ["log8: the mean over seeds is v"]


def test_a_bf16_sr_that_rounds_to_nearest_fails() -> None:
    assert failing({"bf16_sr": STATE_PEERS["bfloat16, to nearest"]}) == ["bf16_sr: mean of a million times 1 + 2^-10"]
