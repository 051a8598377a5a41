"""Stochastic codes by single passes over blocks: every integer and minifloat against its own definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from narrowgauge import formats
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels import _stochastic_torch
from narrowgauge.kernels._stochastic_torch import encode_stochastic, serves_stochastic
from narrowgauge.kernels.layout import layout_of

ELEMENTS = {
    fmt.name: fmt
    for fmt in (getattr(formats.get(name), "element", formats.get(name)) for name in formats.names())
    if fmt.bits <= 8 and type(fmt) in (formats.FloatFormat, formats.IntFormat) and serves_stochastic(layout_of(fmt))
}


def inputs(fmt: formats.Format) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Values of the format, fractions between them, what lies around and beyond; each with bits at both ends and at
    the border where the fraction begins to round up."""
    levels = np.unique(fmt.values()[np.isfinite(fmt.values())])
    shares = np.asarray([0.0, 2.0**-20, 0.25, 0.5, 0.75, 1 - 2.0**-10])[:, None]
    between = (levels[:-1] + shares * (levels[1:] - levels[:-1])).astype(np.float32).reshape(-1)
    rng = np.random.default_rng(0)
    wide = rng.standard_normal(2000) * fmt.max * np.exp2(rng.uniform(-30, 3, 2000))
    limits = [np.inf, -np.inf, 3.4e38, -3.4e38, 0.0, -0.0, 1e-45, -1e-45, 2e-38]
    x = np.concatenate([between, -between, wide.astype(np.float32), np.asarray(limits, np.float32)])
    top = (1 << RANDOM_BITS) - 1
    edges = [0, top, top // 2, top // 2 + 1, top - 1]
    bits = [np.full(x.size, edge) for edge in edges] + [rng.integers(0, top + 1, x.size)]
    return np.tile(x, len(bits)), np.concatenate(bits).astype(np.int32)


@pytest.mark.parametrize("name", ELEMENTS)
def test_codes_are_those_of_the_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stochastic_torch, "BLOCK", 1000)
    fmt = ELEMENTS[name]
    x, bits = inputs(fmt)
    codes = encode_stochastic(torch.from_numpy(x.copy()), layout_of(fmt), torch.from_numpy(bits))
    assert codes.dtype == layout_of(fmt).code_dtype
    np.testing.assert_array_equal(codes.numpy(), fmt.encode(x, "stochastic", random_bits=bits))


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2fnuz", "ue4m3fn", "e2m1fn"])
def test_subnormal_results_are_flushed_where_asked(name: str) -> None:
    fmt = formats.get(name)
    x, bits = inputs(fmt)
    codes = encode_stochastic(torch.from_numpy(x.copy()), layout_of(fmt, True), torch.from_numpy(bits))
    np.testing.assert_array_equal(codes.numpy(), fmt.encode(x, "stochastic", random_bits=bits, subnormals="flush"))


def test_any_strides_and_no_elements() -> None:
    fmt = formats.get("e4m3fn")
    x, bits = torch.randn(40, 30).t(), torch.randint(0, 1 << RANDOM_BITS, (30, 80), dtype=torch.int32)[:, ::2]
    expected = fmt.encode(x.numpy(), "stochastic", random_bits=bits.numpy())
    np.testing.assert_array_equal(encode_stochastic(x, layout_of(fmt), bits).numpy(), expected)
    assert encode_stochastic(x[:0], layout_of(fmt), bits[:0]).shape == (0, 40)


def test_codes_too_wide_for_the_fraction_are_not_served() -> None:
    assert not serves_stochastic(layout_of(formats.get("uint8")))
    assert not serves_stochastic(layout_of(formats.get("rf8")))
    assert serves_stochastic(layout_of(formats.get("int8_full")))
