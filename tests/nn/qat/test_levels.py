"""LevelGrid: nearest levels, codes and border distances against the definition in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge import formats
from narrowgauge.nn.qat.levels import level_grid


@pytest.mark.parametrize("name", ["int2", "int3_full", "uint2", "uint3", "uint8", "int8", "nf4", "e2m1fn", "ternary"])
def test_levels_are_the_nearest_and_their_codes_decode_to_them(name: str) -> None:
    element = formats.get(name)
    grid = level_grid(element)
    top = float(np.nanmax(np.abs(element.values())))
    y = (torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2.4 - 1.2) * top
    levels = grid.nearest(y)
    values = element.values()[np.isfinite(element.values())]
    if isinstance(element, formats.IntFormat):
        values = values[values >= element.min]
    best = np.abs(y.numpy()[:, None] - values[None]).min(1)
    assert np.array_equal(np.abs(levels.numpy() - y.numpy()), best)
    codes = grid.codes(levels)
    assert np.array_equal(element.decode(codes.numpy()), levels.numpy())


def test_rounding_rules_at_ties() -> None:
    half = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert level_grid(formats.get("int4")).nearest(half).tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0]
    assert level_grid(formats.get("ternary")).nearest(half).tolist() == [-1.0, 0.0, 0.0, 1.0, 1.0]
    signs = level_grid(formats.get("binary")).nearest(torch.tensor([-0.0, 0.0, -1e-30, 3.0]))
    assert signs.tolist() == [1.0, 1.0, -1.0, 1.0]


def test_border_distance_is_zero_on_a_border_and_one_on_a_level() -> None:
    grid = level_grid(formats.get("int3"))
    y = torch.tensor([0.0, 0.5, 0.4, 0.75, -2.5, 1.0])
    torch.testing.assert_close(grid.border_distance(y), torch.tensor([1.0, 0.0, 0.2, 0.5, 0.0, 1.0]))
    outside = grid.border_distance(torch.tensor([3.0, 10.0, -10.0]))
    assert outside.tolist() == [1.0, 15.0, 15.0]
    uneven = level_grid(formats.get("e2m1fn")).border_distance(torch.tensor([5.0, 5.5, 4.0, 4.5]))
    torch.testing.assert_close(uneven, torch.tensor([0.0, 0.5, 1.0, 0.5]))


def test_wide_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bits, accepted: at most 8"):
        level_grid(formats.get("int16"))
