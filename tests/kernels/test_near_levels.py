"""Stochastic rounding of values so close to a level that their share of the step is rounded to 1: every twin of the
rule of `kernels/tables.py` against the formats' own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge import formats
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels import _cast
from narrowgauge.kernels._levels_torch import encode_between_levels
from narrowgauge.kernels._round_torch import rounder
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.tables import _stochastic, search_table, table_blob

NAMES = ("nf4", "dynamic8", "ternary", "rf8", "posit8es0")


def values(name: str) -> np.ndarray:
    """The levels of a format, their float32 neighbours, and the smallest float32 numbers."""
    levels = np.unique(formats.get(name).values().astype(np.float32))
    levels = levels[np.isfinite(levels)]
    tiny = np.asarray([1e-45, 1e-38, 1e-30, 0.0], np.float32)
    sides = [np.nextafter(levels, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([levels, *sides, tiny, -tiny])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [0, 1, 2**RANDOM_BITS - 1])
def test_a_value_beside_a_level_is_rounded_as_by_the_definition(name: str, bits: int) -> None:
    fmt, x = formats.get(name), values(name)
    random = np.full(x.size, bits, np.int32)
    expected = fmt.encode(x, "stochastic", random_bits=random)
    table = search_table(fmt)
    assert table.mirrored is not None
    np.testing.assert_array_equal(_stochastic(x, random.astype(np.int64), table, table.mirrored), expected)
    codes = encode_between_levels(torch.from_numpy(x.copy()), fmt, False, torch.from_numpy(random))
    np.testing.assert_array_equal(codes.numpy(), expected)
    y = torch.from_numpy(x.copy())
    rounder(fmt, False, torch.device("cpu"), stochastic=True)(y, torch.from_numpy(random))
    np.testing.assert_array_equal(y.numpy(), fmt.decode(expected).astype(np.float32))


@jit
def encode_kernel(y_ptr, random_ptr, table_ptr, codes_ptr, N, F: tl.constexpr, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    y = tl.load(y_ptr + offs, mask=offs < N, other=0.0)
    code = _cast.encode(y, tl.load(random_ptr + offs, mask=offs < N, other=0), table_ptr, F, True)
    tl.store(codes_ptr + offs, code, mask=offs < N)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [0, 1, 2**RANDOM_BITS - 1])
def test_the_device_function_rounds_as_by_the_definition(name: str, bits: int, device: torch.device) -> None:
    fmt, x = formats.get(name), values(name)
    random = np.full(x.size, bits, np.int32)
    codes = torch.empty(x.size, dtype=torch.int32, device=device)
    y, drawn = (torch.from_numpy(a.copy()).to(device) for a in (x, random))
    layout = layout_of(fmt)
    blob = table_blob(fmt, device) if layout.kind == "table" else None
    encode_kernel[(1,)](y, drawn, blob, codes, x.size, F=layout, BLOCK=1024)
    expected = fmt.encode(x, "stochastic", random_bits=random)
    np.testing.assert_array_equal(codes.cpu().numpy().astype(expected.dtype), expected)
