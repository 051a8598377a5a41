"""Lanes: where they are cut, and what a code that does not fit them is called."""

import numpy as np
import pytest

from narrowgauge.priors.coding.prefix import Table, lane_steps, read, table_chunks, write

SYMBOLS = np.arange(200, dtype=np.uint8) % 2
CODES, LENGTHS = np.array([0b0, 0b1], dtype=np.uint64), np.array([1, 1])
TABLE = Table(1, np.array([0, 1], dtype=np.uint8), np.array([1, 1], dtype=np.uint64))


def written():
    return write(200, 64, table_chunks(SYMBOLS, CODES, LENGTHS))


def test_every_lane_has_its_bits():
    lanes, code = written()
    assert lanes.tolist() == [64, 64, 64, 8]
    assert code.tolist() == [0b01010101] * 25
    assert np.array_equal(read(code, lanes, 200, 64, TABLE, None), SYMBOLS)


@pytest.mark.parametrize("lanes", [[64, 64, 64], [64, 64, 64, 9], [60, 68, 64, 8], [64, 64, 80, -8], [64, 64, 64, 16]])
def test_lanes_that_do_not_fit_the_code_are_refused(lanes):
    _, code = written()
    with pytest.raises(ValueError, match=r"do not fit|damaged"):
        read(code, np.array(lanes), 200, 64, TABLE, None)


def test_lanes_are_longer_where_codewords_are_short():
    assert lane_steps(5_400_000, 1_000_000) == 1024
    assert lane_steps(1_000_000, 1_000_000) == 4096
    assert lane_steps(0, 1_000_000) == 8192
    assert lane_steps(0, 0) == 64
    assert lane_steps(63_000_000, 1_000_000) == 64
    for bits in (500_000, 3_000_000, 20_000_000):
        assert 16 / lane_steps(bits, 1_000_000) <= bits / 1_000_000 / 200
