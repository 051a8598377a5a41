"""What a quantizer may return for an input, element by element and scale by scale: the two contracts of
`check_quantizer`.

`narrowgauge`: codes and scales are those of `formats.quantize_reference`, bit for bit (values: those that they stand
for).

`nearest`: with s the scale that the function itself returned (or, where it returned values alone, the one of the
scheme's rule), x becomes the nearest value to y = x / s, or one that is nearest to a y off by the roundings that a
float32 implementation needs to get there: none where s is a power of two, else 2^-22 of |y| (a division has one
rounding of 2^-24, a product with the rounded reciprocal three), and twice that where the scale had to be assumed. So
ties are exact whenever y is. The scales are those of the rule, powers of two exactly, others to 2^-20."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import BlockFormat, quantize_reference
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.quantizers.grid import factors_of, per_element
from narrowgauge.numerics.quantizers.nearest import judge_nearest
from narrowgauge.numerics.quantizers.read import Reading
from narrowgauge.numerics.quantizers.terms import BoolArray, Contract, Terms, Verdict


def judge(terms: Terms, x: NDArray[np.floating], reading: Reading, seed: int | None = None) -> Verdict:
    """The verdict on `reading`, which is what a function returned for the matrix x [rows, cols]."""
    with np.errstate(all="ignore"):
        if terms.contract is Contract.NARROWGAUGE:
            return _judge_bitwise(terms, x, reading, seed)
        return judge_nearest(terms, x.astype(np.float64), reading, x.dtype == np.float64)


def _judge_bitwise(terms: Terms, x: NDArray[np.floating], reading: Reading, seed: int | None) -> Verdict:
    scheme = terms.scheme
    shape = (x.shape[0], x.shape[1])
    defined = quantize_reference(x, scheme, seed)
    values = defined.dequantize()
    tiles = factors_of(defined)
    factors = per_element(tiles, scheme, shape)
    wrong_scales = np.zeros(tiles.shape, dtype=np.bool_)
    if reading.codes is not None:
        unsigned = 2**scheme.element.bits - 1
        is_wrong = (reading.codes.astype(np.int64) & unsigned) != (defined.codes.astype(np.int64) & unsigned)
    else:
        # Values are the float32 product, rounded once more where a narrower dtype came back.
        product = values.astype(np.float32)
        is_wrong = ~_equal(reading.values, product.astype(np.float64), reading.unit_roundoff)
    if reading.factors is not None:
        mine = reading.factors.astype(np.float32)
        wrong_scales = ~((mine == tiles) | (np.isnan(mine) & np.isnan(tiles)))
    if reading.stored is not None and isinstance(scheme.format, BlockFormat) and reading.stored.dtype.kind in "iu":
        wrong_codes = reading.stored.reshape(defined.scale.shape) != defined.scale
        if wrong_scales.shape == wrong_codes.shape:
            wrong_scales |= wrong_codes
    everything = np.ones(shape, dtype=np.bool_)
    return Verdict(
        values,
        factors,
        defined.codes,
        is_wrong,
        everything,
        wrong_scales,
        tiles.astype(np.float64),
        reading.factors,
    )


def _equal(actual: FloatArray, expected: FloatArray, unit_roundoff: float) -> BoolArray:
    tolerance = 0.0 if unit_roundoff <= 2.0**-24 else unit_roundoff
    close = np.abs(actual - expected) <= np.abs(expected) * tolerance
    zero_signs = (expected != 0) | (actual != 0) | (np.signbit(expected) == np.signbit(actual))
    return np.where(np.isnan(expected), np.isnan(actual), ((actual == expected) | close) & zero_signs)
