"""Parameter masters and bfloat16 roundings in numpy: the definitions of `kernels/moments.py`, with no regard to speed.

Stochastic rounding adds the 16 bits of an element to the bits of its float32 and cuts the low half off, so a value
moves away from zero with the probability of the part that is cut; infinities and NaN stay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narrowgauge.kernels.random_words import halves, uniform

Array = NDArray[np.float64]

RESIDUAL_STEPS = 127
_KEPT = 0xFFFF0000
_LARGEST = 0x7F7F0000


def _bits(x: NDArray[np.floating]) -> NDArray[np.int64]:
    with np.errstate(over="ignore"):
        narrow = np.asarray(x).astype(np.float32)
    return narrow.view(np.uint32).astype(np.int64)


def _values(bits: NDArray[np.int64]) -> Array:
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def bfloat16(x: NDArray[np.floating], random: NDArray[np.uint16] | None = None) -> Array:
    """x as float32, rounded to bfloat16: stochastically under `random`, the 16 bits of each element, else to nearest
    even. float64 values of bfloat16 numbers."""
    bits = _bits(x)
    added = 0x7FFF + (bits >> 16 & 1) if random is None else random.astype(np.int64).reshape(bits.shape)
    return np.where(np.isfinite(_values(bits)), _values(bits + added & _KEPT), _values(bits))


def bfloat16_number(x: NDArray[np.floating]) -> Array:
    """x >= 0 (as float32) rounded to the nearest finite bfloat16 number; NaN stays."""
    return np.where(np.isnan(x), np.nan, np.minimum(bfloat16(x), _values(np.asarray(_LARGEST))))


def bfloat16_up(x: NDArray[np.floating]) -> Array:
    """The smallest bfloat16 number not below x >= 0 (as float32), at most the largest finite one; NaN stays."""
    bits = _bits(x)
    return np.where(np.isnan(x), np.nan, _values(np.minimum(bits + 0xFFFF & _KEPT, _LARGEST)))


def half_ulp(p: Array) -> Array:
    """Half an ulp of bfloat16 numbers, that of 2^-126 below it."""
    _, exponent = np.frexp(np.where(np.isfinite(p), p, 1.0))
    exponent = np.where(p == 0, -126, np.maximum(exponent - 1, -126))
    return np.ldexp(1.0, exponent - 8)


def join_weight(p: Array, residual: NDArray[np.int8]) -> Array:
    """w of a bfloat16 parameter and its residual."""
    return p + residual.astype(np.float64) / RESIDUAL_STEPS * half_ulp(p)


def split_weight(w: Array, key: int = 0, offset: int = 0) -> tuple[Array, NDArray[np.int8]]:
    """(p, residual) of flat w, drawn as elements `offset` and following; the residual is 0 where p is not finite."""
    p = bfloat16(w)
    with np.errstate(invalid="ignore"):
        share = np.clip((w - p) / half_ulp(p), -1.0, 1.0)
    share = np.where(np.isfinite(p), share, 0.0)
    code = np.floor(RESIDUAL_STEPS * share + uniform(w.size, key, offset))
    return p, np.where(np.isfinite(p), code, 0.0).astype(np.int8)


def round_weight(w: Array, key: int = 0, offset: int = 0) -> Array:
    """Flat w as bfloat16, stochastically."""
    return bfloat16(w, halves(w.size, key, offset))
