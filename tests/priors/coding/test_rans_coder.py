"""Blocks and states of the rANS coder."""

import numpy as np
import pytest

from narrowgauge.priors.coding import Rans, decode
from narrowgauge.priors.coding.rans_coder import MAX_LANES, layout


@pytest.mark.parametrize(
    ("count", "bits"), [(0, 0), (1, 3), (1000, 5000), (10**6, 5e6), (16 * 10**6, 8e7), (10**9, 6e9)]
)
def test_states_take_little_and_blocks_cover_everything(count, bits):
    lanes, block = layout(count, bits)
    blocks = -(-count // block)
    assert 1 <= lanes <= MAX_LANES
    assert lanes & (lanes - 1) == 0
    assert 32 * lanes * blocks <= max(bits / 200, 32)
    assert block <= 1 << 24


def test_short_codes_keep_their_lanes_short():
    lanes, block = layout(16_000_000, 0.0)
    assert block / lanes <= 2 * 8192


def test_blocks_are_coded_by_themselves(monkeypatch):
    monkeypatch.setattr("narrowgauge.priors.coding.rans_coder._BLOCK", 1000)
    symbols = np.random.default_rng(0).geometric(0.2, 4321)
    coded = Rans().encode(symbols)
    assert len(coded.parameters["words"]) == 5
    assert np.array_equal(decode(coded), symbols)


def test_more_symbols_than_frequencies_are_refused():
    with pytest.raises(ValueError, match="65537 distinct ones"):
        Rans().encode(np.arange(65537))
