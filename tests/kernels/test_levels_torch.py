"""Stochastic rounding between the levels of a table against the formats' own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge import formats
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels import _levels_torch
from narrowgauge.kernels._levels_torch import encode_between_levels, level_table
from narrowgauge.kernels.layout import layout_of

CPU = torch.device("cpu")
MIRRORED = ("rf8", "rf8b12", "posit8es0", "posit8es2", "hif8", "lns8g8", "adaptivfloat4e2", "radix4_fp4", "e4m3fnuz")
PLAIN = ("nf4", "dynamic8", "udynamic8", "ternary", "binary", "bnb_fp4", "e8m0fnu", "de4")


@pytest.mark.parametrize("name", MIRRORED + PLAIN)
def test_codes_are_those_of_the_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_levels_torch, "BLOCK", 1000)
    fmt = formats.get(name)
    levels = np.unique(fmt.values()[np.isfinite(fmt.values())])
    shares = np.asarray([0.0, 2.0**-20, 0.3, 0.5, 1 - 2.0**-10])[:, None]
    rng = np.random.default_rng(0)
    wide = rng.standard_normal(3000) * fmt.max * np.exp2(rng.uniform(-30, 3, 3000))
    between = (levels[:-1] + shares * (levels[1:] - levels[:-1])).reshape(-1)
    with np.errstate(over="ignore"):
        x = np.concatenate([between, -between, wide, [np.inf, -np.inf, 0.0, -0.0, 1e-45]]).astype(np.float32)
    for bits in (np.zeros(x.size), np.full(x.size, 2**RANDOM_BITS - 1), rng.integers(0, 2**RANDOM_BITS, x.size)):
        random = bits.astype(np.int32)
        codes = encode_between_levels(torch.from_numpy(x.copy()), fmt, False, torch.from_numpy(random))
        assert codes.dtype == layout_of(fmt).code_dtype
        np.testing.assert_array_equal(codes.numpy(), fmt.encode(x, "stochastic", random_bits=random))


@pytest.mark.parametrize("name", MIRRORED)
def test_a_value_and_its_negative_round_alike_in_mirrored_formats(name: str) -> None:
    fmt = formats.get(name)
    assert level_table(fmt, False, CPU).mirrored
    x = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    random = torch.randint(0, 1 << RANDOM_BITS, x.shape, dtype=torch.int32)
    there, back = (fmt.decode(encode_between_levels(y.clone(), fmt, False, random).numpy()) for y in (x, -x))
    np.testing.assert_array_equal(there, -back)


def test_any_strides_and_no_elements() -> None:
    fmt = formats.get("nf4")
    x, bits = torch.randn(40, 30).t(), torch.randint(0, 1 << RANDOM_BITS, (40, 30), dtype=torch.int32).t()
    expected = fmt.encode(x.numpy(), "stochastic", random_bits=bits.numpy())
    np.testing.assert_array_equal(encode_between_levels(x, fmt, False, bits).numpy(), expected)
    assert encode_between_levels(x[:0], fmt, False, bits[:0]).shape == (0, 40)
