"""Stochastic schemes: bits of the element's index, reproducible, the same for every tiling, and unbiased."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import BlockFormat, parse, quantize_reference
from narrowgauge.formats.philox import random_words, rounding_bits
from narrowgauge.formats.tiles import spread


def test_needs_a_seed() -> None:
    with pytest.raises(ValueError, match=r"^seed: stochastic scheme e4m3fn/row\+sr needs an explicit seed"):
        quantize_reference(np.ones((2, 2), np.float32), "e4m3fn/row+sr")


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "int8", "mxfp4", "nvfp4", "rf8/1x8", "nf4/row"])
def test_repeats_itself_and_differs_between_streams(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((16, 64)).astype(np.float32)
    drawn = {
        (seed, offset): quantize_reference(x, f"{scheme}+sr", seed, offset).codes
        for seed in (0, 5)
        for offset in (0, 1)
    }
    for (seed, offset), codes in drawn.items():
        assert np.array_equal(quantize_reference(x, f"{scheme}+sr", seed, offset).codes, codes)
    assert len({codes.tobytes() for codes in drawn.values()}) == 4


def test_bits_are_those_of_the_element_index(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 11)).astype(np.float32)
    codes = quantize_reference(x, "e4m3fn:static=0.5+sr", seed=3, offset=8).codes
    bits = (random_words(66, 3, 8) >> 8).reshape(6, 11)
    assert np.array_equal(codes, formats.get("e4m3fn").encode(x * 2, "stochastic", random_bits=bits))


@pytest.mark.parametrize("tile", ["row", "col", "1x4", "3x5", "5x1"])
def test_bits_do_not_depend_on_the_tiling(tile: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((7, 13)).astype(np.float32)
    whole = quantize_reference(x, "e5m2:static=0.125+sr", seed=1)
    assert np.array_equal(quantize_reference(x, f"e5m2/{tile}:static=0.125+sr", seed=1).codes, whole.codes)
    reshaped = quantize_reference(x.reshape(13, 7), f"e5m2/{tile}:static=0.125+sr", seed=1)
    assert np.array_equal(reshaped.codes.reshape(7, 13), whole.codes)


def test_a_prefix_is_rounded_alike(rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 10)).astype(np.float32)
    whole = quantize_reference(x, "int8/row+sr", seed=2)
    part = quantize_reference(x[:4], "int8/row+sr", seed=2)
    assert np.array_equal(part.codes, whole.codes[:4])


def test_uses_all_of_its_random_bits() -> None:
    bits = rounding_bits((4096,), seed=0)
    x = np.full(4096, 1 + 2.0**-3 * 0.3, np.float32)
    codes = quantize_reference(x, "e4m3fn:static=1.0+sr", seed=0).codes
    up = np.floor(np.float64(x[0] - 1) * 8 * 2**24) + bits >= 2**24
    assert np.array_equal(codes, np.where(up, 0x39, 0x38))


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "mxfp4", "nvfp4", "int4/row", "rf8/row"])
def test_is_unbiased(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((8, 64)).astype(np.float32)
    draws = [quantize_reference(x, f"{scheme}+sr", seed) for seed in range(400)]
    mean = np.mean([q.dequantize() for q in draws], axis=0)
    spec, first = parse(scheme), draws[0]
    stored = spec.format.scales(first.scale, first.outer) if isinstance(spec.format, BlockFormat) else first.scale
    factor = spread(stored, spec.tile, x.shape).astype(np.float64)
    # NVFP4 rounds its block scale to nearest, which clips some maxima: those alone are off.
    inside = np.abs(x / factor) <= spec.element.max
    assert inside.mean() > (0.9 if scheme == "nvfp4" else 0.98)
    gap = (spec.element.round(x / factor, "up") - spec.element.round(x / factor, "down")) * factor
    hoeffding = np.sqrt(np.log(2e9) / (2 * len(draws)))
    assert (np.abs(mean - x) <= gap * hoeffding + 2.0**-22 * np.abs(x))[inside].all()
