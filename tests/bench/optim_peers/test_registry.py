"""Every model keeps what a codec has to, but for the faults it was published with."""

from __future__ import annotations

import pytest

from narrowgauge.bench.optim_peers import LOG8_TO_NEAREST, STATE_PEERS, WEIGHT_PEERS
from narrowgauge.numerics import check_optimizer
from narrowgauge.numerics.optimizers.protocol import StateCodec, WeightCodec

SHORT = ("tracking", "unbiased", "re-encoding")
FAULTS = {
    "COAT, released kernel": {"constant group lost", "zero poisons its group"},
    "COAT kernel, paper's range": {"constant group lost", "zero poisons its group"},
    "COAT, paper's formula": {"constant group lost"},
    "E4M3, groups of 128": {"constant group lost", "v truncated to zero"},
    "torchao FP8": {"constant group lost", "v truncated to zero"},
    "torchao 8-bit": {"v truncated to zero"},
    "bitsandbytes 8-bit": {"v truncated to zero"},
    "FlashOptim": {"constant group lost", "v truncated to zero"},
    "FlashOptim, float32 scales": {"v truncated to zero"},
    "FP8-LM": {"group scale shared across groups", "non-finite leak", "v truncated to zero"},
    "SOLO 4/2": {"zero lost"},
}
IN_LAST_BITS = {"group scale shared across groups"}
"""COAT's powers are taken by numpy, whose last bit depends on where in an array an element is."""


@pytest.mark.parametrize("name", STATE_PEERS)
def test_faults_are_the_published_ones(name: str) -> None:
    codec = STATE_PEERS[name]
    assert isinstance(codec, StateCodec)
    kinds = set(check_optimizer(codec, elements=1 << 12, skip=SHORT).kinds)
    assert kinds - (IN_LAST_BITS if name.startswith("COAT") else set()) == FAULTS.get(name, set())


def test_log8_to_nearest_has_none() -> None:
    assert check_optimizer(LOG8_TO_NEAREST, elements=1 << 12, skip=SHORT).ok


@pytest.mark.parametrize("name", WEIGHT_PEERS)
def test_weight_codecs_are_weight_codecs(name: str) -> None:
    assert isinstance(WEIGHT_PEERS[name], WeightCodec)
