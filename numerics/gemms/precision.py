"""What a GEMM's arithmetic may err by: accumulator, output dtype, underflow.

    |Ĉ - C| <= θ·|A||B|  +  u_out·(|C| + θ·|A||B|)  +  underflow,      θ = γ_n of n = K + 4 roundings

with C the float64 product of the dequantised operands (Higham 2002, §3.5). The four are two scales, their product and
the bias. It holds for every order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from narrowgauge.formats import get
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.check import sum_roundings
from narrowgauge.numerics.gemms.cases import GemmCase
from narrowgauge.numerics.gemms.operands import PLAIN_DTYPES
from narrowgauge.numerics.statistics import accumulation_bound

EXTRA_ROUNDINGS = 4
ACCUMULATORS = ("float64", "float32", "float16", "bfloat16", "int32")
OUT_DTYPES = (*PLAIN_DTYPES, "float64")


def unit_roundoff(dtype: str) -> float:
    """u of a float dtype: half the distance from 1 to the next larger number."""
    return 2.0**-53 if dtype == "float64" else float(get(PLAIN_DTYPES[dtype]).epsilon) / 2.0


def smallest_subnormal(dtype: str) -> float:
    """Smallest positive number of a float dtype."""
    return 2.0**-1074 if dtype == "float64" else float(get(PLAIN_DTYPES[dtype]).smallest_subnormal)


def smallest_normal(dtype: str) -> float:
    """Smallest normal number of a float dtype."""
    return 2.0**-1022 if dtype == "float64" else float(get(PLAIN_DTYPES[dtype]).smallest_normal)


def largest(dtype: str) -> float:
    """Largest finite number of a float dtype."""
    return float(np.finfo(np.float64).max) if dtype == "float64" else float(get(PLAIN_DTYPES[dtype]).max)


@dataclass(frozen=True)
class Arithmetic:
    """unit_roundoff: of the accumulator, 0 for exact integer sums. out_dtype: see OUT_DTYPES. chunk: products of a
    partial sum. underflow: what a product or a sum below the normal range may lose."""

    unit_roundoff: float
    out_dtype: str = "float32"
    chunk: int | None = None
    underflow: float = 2.0**-149
    exact_sums: bool = False

    @classmethod
    def of(cls, accumulate: str | float, out_dtype: str, chunk: int | None, flushes: bool) -> Arithmetic:
        """From the arguments of `check_gemm`. ValueError names what is accepted."""
        if out_dtype not in OUT_DTYPES:
            raise ValueError(f"out_dtype: got {out_dtype!r}, accepted: {', '.join(OUT_DTYPES)}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk: got {chunk}, accepted: a number of products >= 1, or None")
        if isinstance(accumulate, str):
            if accumulate not in ACCUMULATORS:
                raise ValueError(
                    f"accumulate: got {accumulate!r}, accepted: {', '.join(ACCUMULATORS)}, or a unit roundoff"
                )
            dtype = "float32" if accumulate == "int32" else accumulate
            small = smallest_normal(dtype) if flushes else smallest_subnormal(dtype)
            return cls(unit_roundoff(dtype), out_dtype, chunk, small, accumulate == "int32")
        if not 0.0 < accumulate < 1.0:
            raise ValueError(f"accumulate: got {accumulate}, accepted: a unit roundoff between 0 and 1, or a name")
        return cls(accumulate, out_dtype, chunk, smallest_normal("float32") if flushes else 2.0**-149)

    def roundings(self, k: int) -> int:
        """How many roundings a sum of K products takes at most."""
        if self.exact_sums:
            return EXTRA_ROUNDINGS
        return sum_roundings(k, self.chunk) + EXTRA_ROUNDINGS

    def bound(self, of: Product) -> FloatArray:
        """|result - expected| at most; infinite where n·u is so large that nothing can be said."""
        size = of.exact_magnitude if self.exact_sums else of.magnitude
        out = unit_roundoff(self.out_dtype)
        out = out if out > self.unit_roundoff else 0.0
        with np.errstate(invalid="ignore", over="ignore"):
            accumulated = accumulation_bound(self.roundings(of.k), self.unit_roundoff) * size
            # Products and sums below the normal range, and the product of two scales, which may be there as well.
            accumulated += self.underflow * (of.k + EXTRA_ROUNDINGS + of.codes)
            # What is right is itself a float64 sum, which cancels less exactly than one of integers.
            accumulated += accumulation_bound(of.k + EXTRA_ROUNDINGS, 2.0**-53) * of.magnitude
            total = accumulated + out * (np.abs(of.expected) + accumulated) + smallest_subnormal(self.out_dtype)
        return np.asarray(np.where(of.magnitude == 0.0, 0.0, total))


@dataclass(frozen=True)
class Product:
    """expected: A·Bᵀ (+ bias) in float64. magnitude: |A||B|ᵀ (+ |bias|); exact_magnitude: |A·Bᵀ| (+ |bias|). codes:
    |A||B|ᵀ of the values before scaling. k: terms of a sum."""

    expected: FloatArray
    magnitude: FloatArray
    exact_magnitude: FloatArray
    codes: FloatArray
    k: int


def product(a: FloatArray, b: FloatArray, case: GemmCase, bias: float = 1.0) -> Product:
    """The product of operand values [M, K] and [N, K], the case's bias added `bias` times."""
    with np.errstate(invalid="ignore", over="ignore"):
        expected = a @ b.T
        magnitude = np.abs(_finite(a)) @ np.abs(_finite(b)).T
        codes = np.abs(_finite(case.a.elements)) @ np.abs(_finite(case.b.elements)).T
        added = np.zeros(1) if case.bias is None else bias * case.bias.astype(np.float64)
        sums = np.abs(expected) + np.abs(added)
    return Product(expected + added, magnitude + np.abs(added), sums, codes, a.shape[1])


def _finite(x: FloatArray) -> FloatArray:
    return np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def rounded(x: FloatArray, dtype: str) -> FloatArray:
    """`x` rounded once to a float dtype, to nearest, ties to even."""
    return x if dtype == "float64" else np.asarray(get(PLAIN_DTYPES[dtype]).round(x, overflow="propagate"))
