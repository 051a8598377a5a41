"""S2FP8, shifted and squeezed FP8 (Cambier et al., arXiv 2001.05674): E5M2 after a map that is affine in log2 |x|.

With μ the mean and m the largest of log2 |x| over the non-zero elements of a tensor,

    α = 15 / (m - μ)      β = -α μ      |y| = 2^β · |x|^α      x = sign(y) · (2^-β · |y|)^(1/α)

so that log2 |y| has mean 0 and maximum 15: the tensor is moved into the middle of E5M2's range and stretched or
squeezed to fill it. y is rounded to E5M2; zeros stay zero.

Where all magnitudes are (nearly) equal, α would be infinite: it is limited to 2^16, and the largest |y| then stays
below 2^15. A tensor of zeros has α = 1, β = 0. Non-finite elements: `propagate`, the default, makes α and β NaN and
every element decode to NaN, as one group of the numerics contract; `raise` refuses them.

Powers and logarithms come from the mathematical library, whose last bit is its own: |y| is float64, and a code may
differ between machines where |y| lies within rounding of the border between two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.quantizer import supported_array
from narrowgauge.formats.registry import get
from narrowgauge.formats.rounding import FloatArray, Rounding

LARGEST_EXPONENT = 15.0
"""log2 of the largest |y|: the top binade of E5M2."""
LARGEST_ALPHA = 2.0**16


@dataclass(frozen=True)
class S2FP8Quantized:
    """codes: E5M2, uint8, the shape of x. alpha, beta: the squeeze and the shift of the tensor, NaN where it held NaN
    or infinities."""

    codes: NDArray[np.uint8]
    alpha: float
    beta: float

    def dequantize(self) -> FloatArray:
        """sign(y) · (2^-beta · |y|)^(1/alpha), float64."""
        return unsqueezed(get("e5m2").decode(self.codes), self.alpha, self.beta)


def squeeze_factors(x: ArrayLike) -> tuple[float, float]:
    """(alpha, beta) of a float array; (NaN, NaN) where it holds NaN or infinities, (1, 0) where it holds only zeros."""
    magnitude = np.abs(np.asarray(x, dtype=np.float64))
    if not np.isfinite(magnitude).all():
        return float("nan"), float("nan")
    logs = np.log2(magnitude[magnitude > 0])
    if logs.size == 0:
        return 1.0, 0.0
    mean = float(logs.mean())
    alpha = LARGEST_EXPONENT / max(float(logs.max()) - mean, LARGEST_EXPONENT / LARGEST_ALPHA)
    return alpha, -alpha * mean


def squeezed(x: ArrayLike, alpha: float, beta: float) -> FloatArray:
    """sign(x) · 2^beta · |x|^alpha in float64; zero stays zero."""
    values = np.asarray(x, dtype=np.float64)
    logs = np.log2(np.abs(values), out=np.zeros_like(values), where=values != 0)
    # alpha · (log2 |x| + beta / alpha) rather than alpha · log2 |x| + beta: where alpha is large they nearly cancel.
    with np.errstate(over="ignore"):
        magnitude = np.exp2(alpha * (logs + beta / alpha))
    return np.where(values == 0, values, np.copysign(magnitude, values))


def unsqueezed(y: ArrayLike, alpha: float, beta: float) -> FloatArray:
    """The inverse of `squeezed`: sign(y) · (2^-beta · |y|)^(1 / alpha)."""
    values = np.asarray(y, dtype=np.float64)
    logs = np.log2(np.abs(values), out=np.zeros_like(values), where=values != 0)
    if np.isnan(alpha):
        return np.full(values.shape, np.nan)
    with np.errstate(over="ignore"):
        magnitude = np.exp2((logs - beta) / alpha)
    return np.where(values == 0, values, np.copysign(magnitude, values))


def quantize_s2fp8(
    x: ArrayLike,
    nonfinite: str = "propagate",
    rounding: Rounding | str | None = None,
    random_bits: ArrayLike | None = None,
) -> S2FP8Quantized:
    """Quantises a float16/32/64 array of any shape. nonfinite: `propagate` or `raise`. rounding and random_bits: as
    in `Format.encode`, of y.

    Raises TypeError for other dtypes, ValueError for other policies, and for NaN and infinities if asked to.
    """
    if nonfinite not in ("propagate", "raise"):
        raise ValueError(f"nonfinite: got {nonfinite!r}, accepted: propagate, raise")
    array = supported_array(x)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = array.astype(np.float64)
    alpha, beta = squeeze_factors(values)
    fmt = get("e5m2")
    if np.isnan(alpha):
        if nonfinite == "raise":
            bad = int((~np.isfinite(values)).sum())
            raise ValueError(f"x: {bad} of {values.size} values are NaN or infinite, and nonfinite='raise'")
        return S2FP8Quantized(np.full(values.shape, fmt.nan_code, dtype=np.uint8), alpha, beta)
    codes = fmt.encode(squeezed(values, alpha, beta), rounding, random_bits=random_bits)
    return S2FP8Quantized(codes, alpha, beta)
