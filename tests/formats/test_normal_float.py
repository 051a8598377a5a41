"""Normal floats: the published tables, and the order of their codes."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats.normal_float import normal_float

NF3_PUBLISHED = [
    -1.0, -0.5350227355957031, -0.2469314038753510, 0.0,
    0.1833375245332718, 0.3819939494132996, 0.6229856610298157, 1.0,
]  # fmt: skip


def test_they_are_the_published_tables() -> None:
    np.testing.assert_allclose(normal_float(3), NF3_PUBLISHED, atol=1e-7)
    np.testing.assert_allclose(normal_float(4), formats.get("nf4").values(), atol=2e-7)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_levels_ascend_around_zero(bits: int) -> None:
    levels = np.array(normal_float(bits))
    assert len(levels) == 2**bits
    assert (np.diff(levels) > 0).all()
    assert (levels[0], levels[2 ** (bits - 1) - 1], levels[-1]) == (-1.0, 0.0, 1.0)


def test_nf3_is_registered() -> None:
    fmt = formats.parse("nf3/1x128").element
    assert (fmt.bits, fmt.has_zero) == (3, True)
    assert np.array_equal(fmt.values(), np.array(normal_float(3), dtype=np.float32))


def test_one_bit_is_refused() -> None:
    with pytest.raises(ValueError, match="bits: got 1, accepted: 2 or more"):
        normal_float(1)
