"""How well a format holds data of known distributions: SQNR by the exact reference, for a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from narrowgauge.formats import BlockFormat, FloatFormat, Format, Scheme, quantize_reference
from narrowgauge.formats.rules import ScaleRule
from narrowgauge.numerics import distribution, sqnr_db

DATA: Mapping[str, str] = {"Gaussian": "normal", "Laplace": "laplace", "GG, shape 0.5": "gg0.5", "uniform": "uniform"}
"""Shown name → distribution of `narrowgauge.numerics`; all are drawn with standard deviation 1."""
SHAPE = (16, 1024)
SEED = 20260101
WIDE = 2.0**64
"""Formats whose values reach farther than this need no scale, and amax scaling of float32 data would leave float32."""
_TILES = {"one scale": (None, None), "1x128": (1, 128), "1x32": (1, 32)}


def schemes_of(fmt: Format | BlockFormat) -> dict[str, Scheme]:
    """Shown name → scheme: a block format's own; else without a scale, and with scales of several sizes."""
    if isinstance(fmt, BlockFormat):
        further = (ScaleRule.RCEIL,) if fmt.two_level else (ScaleRule.FLOOR, ScaleRule.RCEIL)
        return {str(rule): Scheme(fmt, fmt.tile, rule) for rule in (fmt.rule, *further)}
    found: dict[str, Scheme] = {}
    if isinstance(fmt, FloatFormat) and not fmt.has_zero:
        return found  # holds scales, not elements
    if fmt.max / fmt.smallest_normal > 16:
        found["as it is"] = Scheme(fmt, rule=ScaleRule.STATIC, value=1.0)
    if fmt.amax_target < min(fmt.max, WIDE) or (fmt.max / fmt.smallest_normal < WIDE and fmt.max < WIDE):
        rule = fmt.default_rule
        found |= {name: Scheme(fmt, tile, rule) for name, tile in _TILES.items()}
        if fmt.bits <= 8:
            found["one scale, mse"] = Scheme(fmt, rule=ScaleRule.MSE)
    return found


def sqnr_table(fmt: Format | BlockFormat) -> dict[str, dict[str, float]]:
    """Distribution → shown scheme → SQNR in dB. Unsigned formats get the magnitudes; empty for
    formats of scales."""
    table: dict[str, dict[str, float]] = {}
    element = fmt.element if isinstance(fmt, BlockFormat) else fmt
    schemes = schemes_of(fmt)
    if not schemes:
        return table
    for shown, name in DATA.items():
        x = distribution(name, SHAPE, np.random.default_rng(SEED))
        x /= x.std()
        x = x if element.signed else np.abs(x)
        table[shown] = {
            label: sqnr_db(quantize_reference(x, scheme).dequantize(), x) for label, scheme in schemes.items()
        }
    return table
