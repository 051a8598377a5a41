"""Every IEEE-like minifloat by one parametrisation (survey B.0): fields S | E(w) | M(t).

    E = 0 (with subnormals):  v = ± M · 2^(1 - bias - t)
    otherwise:                v = ± (1 + M / 2^t) · 2^(E - bias)

An all-ones exponent not consumed by NaN or Inf is an ordinary binade. Without subnormals E = 0 is one too, all of it
(E8M0) or but for its first value, whose code is zero instead (DLFloat16, AdaptivFloat: `zero_at_bottom`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from narrowgauge.formats.format import Codes, Format, smallest_unsigned
from narrowgauge.formats.rounding import (
    BoolArray,
    CastMode,
    FloatArray,
    Overflow,
    fraction_between,
)

IEEE_BIAS = -(2**31)
"""Stands for 2^(exponent_bits - 1) - 1, which takes its place when a format is made."""


@dataclass(frozen=True, kw_only=True)
class FloatFormat(Format):
    """A minifloat. `nan_codes`: how many of the highest codes of each sign are NaN (IEEE 2^t - 1, "fn" 1,
    none 0); `nan_at_negative_zero`: the code 10…0 is the one NaN and there is no -0 ("fnuz", P3109);
    `has_infinity`: the code just below the NaNs of each sign is an infinity; `subnormals=False`: E = 0 is an
    ordinary binade and there is no zero (E8M0), unless `zero_at_bottom` makes its first code one (DLFloat16);
    `overflow_to_nan=False`: without an infinity, non-saturating overflow clamps (P3109 v4.0) instead of giving NaN
    (OCP, ml_dtypes). bias: by default IEEE's, 2^(exponent_bits - 1) - 1. Without a name it is called
    after its parameters (see `float_names`).
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int = IEEE_BIAS
    is_signed: bool = True
    subnormals: bool = True
    zero_at_bottom: bool = False
    has_infinity: bool = False
    nan_codes: int = 0
    nan_at_negative_zero: bool = False
    overflow_to_nan: bool = True

    def __post_init__(self) -> None:
        if self.bias == IEEE_BIAS:
            object.__setattr__(self, "bias", 2 ** (max(self.exponent_bits, 1) - 1) - 1)
        if not self.name:
            object.__setattr__(self, "name", _parameter_name(self))
        if self.exponent_bits < 1 or self.mantissa_bits < 0 or self.bits > 32:
            raise ValueError(
                f"{self.name}: exponent_bits >= 1, mantissa_bits >= 0 and at most 32 bits in all, "
                f"got {self.exponent_bits} and {self.mantissa_bits}"
            )
        if self.nan_at_negative_zero and not self.is_signed:
            raise ValueError(f"{self.name}: nan_at_negative_zero needs a signed format")
        if self.zero_at_bottom and (self.subnormals or self.nan_at_negative_zero):
            raise ValueError(
                f"{self.name}: zero_at_bottom goes with subnormals=False and nan_at_negative_zero=False, "
                f"got {self.subnormals} and {self.nan_at_negative_zero}"
            )
        if self.nan_codes < 0 or self._max_code < (1 if self.has_zero else 0):
            raise ValueError(f"{self.name}: nan_codes={self.nan_codes} leaves no finite value")
        lowest, highest = self.emin - self.mantissa_bits, (self._max_code >> self.mantissa_bits) - self.bias
        if lowest < -1074 or highest > 1023:
            raise ValueError(
                f"{self.name}: bias={self.bias} puts values at 2^{lowest} to 2^{highest}, "
                "beyond float64 (2^-1074 to 2^1023)"
            )

    @property
    def family(self) -> str:
        return "float"

    @property
    def layout(self) -> str:
        sign = "1 sign, " if self.is_signed else "no sign, "
        lowest = "" if self.subnormals else ", no subnormals"
        return f"{sign}{self.exponent_bits} exponent and {self.mantissa_bits} mantissa bits, bias {self.bias}{lowest}"

    @property
    def bits(self) -> int:
        return int(self.is_signed) + self.exponent_bits + self.mantissa_bits

    @property
    def code_dtype(self) -> np.dtype[np.integer]:
        return smallest_unsigned(self.bits)

    @property
    def signed(self) -> bool:
        return self.is_signed

    @property
    def has_inf(self) -> bool:
        return self.has_infinity

    @property
    def has_nan(self) -> bool:
        return self.nan_at_negative_zero or self.nan_codes > 0

    @property
    def has_zero(self) -> bool:
        return self.subnormals or self.zero_at_bottom

    @property
    def has_negative_zero(self) -> bool:
        """Whether -0 has a code of its own."""
        return self.is_signed and self.has_zero and not self.nan_at_negative_zero

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal binade."""
        return (1 if self.subnormals else 0) - self.bias

    @property
    def emax(self) -> int:
        """floor(log2(max))."""
        return int(np.frexp(self.max)[1]) - 1

    @property
    def _sign_bit(self) -> int:
        return 1 << (self.exponent_bits + self.mantissa_bits) if self.is_signed else 0

    @property
    def _max_code(self) -> int:
        """Magnitude code of the largest finite value."""
        return 2 ** (self.exponent_bits + self.mantissa_bits) - 1 - self.nan_codes - int(self.has_infinity)

    @property
    def inf_code(self) -> int | None:
        """Code of +Inf, None where there is none."""
        return self._max_code + 1 if self.has_infinity else None

    @property
    def nan_code(self) -> int | None:
        """Canonical NaN: the slot of -0, else positive and quiet (top mantissa bit set, as in ml_dtypes)."""
        if self.nan_at_negative_zero:
            return self._sign_bit
        if self.nan_codes == 0:
            return None
        first = self._max_code + 1 + int(self.has_infinity)
        ieee = self.mantissa_bits > 0 and self.nan_codes == 2**self.mantissa_bits - 1
        # IEEE-like: exponent all ones and the quiet bit; elsewhere the first NaN ("fn" formats have one).
        return first - 1 + (1 << (self.mantissa_bits - 1)) if ieee else first

    @cached_property
    def max(self) -> float:
        return float(self._magnitudes(np.asarray([self._max_code]))[0])

    @property
    def min(self) -> float:
        if self.is_signed:
            return -self.max
        return 0.0 if self.has_zero else self.smallest_subnormal

    @property
    def finite_codes(self) -> int:
        """How many codes are finite values, -0 counted where it exists."""
        return (self._max_code + 1) * (1 + int(self.is_signed)) - int(self.nan_at_negative_zero)

    @property
    def smallest_normal(self) -> float:
        return float(self._magnitudes(np.asarray([1]))[0]) if self.zero_at_bottom else float(2.0**self.emin)

    @property
    def smallest_subnormal(self) -> float:
        return float(2.0 ** (self.emin - self.mantissa_bits)) if self.subnormals else self.smallest_normal

    @property
    def epsilon(self) -> float:
        return float(2.0 ** (min(max(0, self.emin), self.emax) - self.mantissa_bits))

    def _magnitudes(self, magnitude_codes: Codes) -> FloatArray:
        exponent = magnitude_codes >> self.mantissa_bits
        mantissa = (magnitude_codes & ((1 << self.mantissa_bits) - 1)).astype(np.float64)
        normal = (exponent > 0) | (not self.subnormals)
        significand = mantissa + np.where(normal, float(1 << self.mantissa_bits), 0.0)
        quantum = np.maximum(exponent, 1 if self.subnormals else 0) - self.bias - self.mantissa_bits
        values = np.asarray(np.ldexp(significand, quantum.astype(np.int32)))
        return np.where(magnitude_codes == 0, 0.0, values) if self.zero_at_bottom else values

    def decode(self, codes: ArrayLike) -> FloatArray:
        wide = self._integer_codes(codes) & (2**self.bits - 1)
        magnitude = wide & (2 ** (self.exponent_bits + self.mantissa_bits) - 1)
        values = self._magnitudes(magnitude)
        if self.has_infinity:
            values = np.where(magnitude == self._max_code + 1, np.inf, values)
        values = np.where(magnitude > self._max_code + int(self.has_infinity), np.nan, values)
        negative = (wide & self._sign_bit) != 0
        values = np.where(negative, -values, values)
        if self.nan_at_negative_zero:
            values = np.where(wide == self._sign_bit, np.nan, values)
        return np.asarray(values, dtype=np.float64)

    def _encode(self, x: FloatArray, how: CastMode) -> Codes:
        t = self.mantissa_bits
        infinite = np.isinf(x)
        magnitude = np.where(infinite, 0.0, np.abs(x))
        negative = np.signbit(x)
        exponent = np.where(magnitude == 0, self.emin, np.frexp(magnitude)[1] - 1)
        quantum = np.maximum(exponent, self.emin) - t
        # What underflows here keeps a trace, so that the directed modes and to-odd still see it.
        significand = np.maximum(np.ldexp(magnitude, -quantum), np.where(magnitude > 0, 2.0**-1074, 0.0))
        low = np.floor(significand)
        # Without subnormals `low` may be 0 below the smallest binade: _below_range deals with that.
        code = ((quantum + t - self.emin).astype(np.int64) << t) + low.astype(np.int64)
        if not self.subnormals:
            code -= 1 << t
        frac = significand - low
        if self.zero_at_bottom:
            below = magnitude < self.smallest_normal
            smallest = np.full_like(magnitude, self.smallest_normal)
            inner = np.minimum(magnitude, self.smallest_normal)
            frac = np.where(below, fraction_between(inner, np.zeros_like(inner), smallest), frac)
            code = np.where(below, 0, code)
        odd = (code & 1) != 0
        code += how.rounds_away(frac, odd, negative)
        code = self._overflow(code, infinite, negative, how)
        if not self.has_zero:
            code = self._below_range(code, magnitude, infinite, how.overflow)
        if not self.is_signed:
            return self._unsigned(code, x, how.overflow)
        return self._with_sign(code, negative)

    def _overflow(self, code: Codes, infinite: BoolArray, negative: BoolArray, how: CastMode) -> Codes:
        beyond = code > self._max_code
        code = np.minimum(code, self._max_code)
        special = self.inf_code
        if special is None and self.overflow_to_nan:
            special = self._nan_magnitude
        if special is None or how.overflow is Overflow.SATURATE:
            return np.where(infinite, self._max_code, code)
        if how.overflow is Overflow.PROPAGATE:
            return np.where(infinite, self._max_code + int(self.has_infinity), code)
        return np.where(infinite | (beyond & ~how.stays_finite(negative)), special, code)

    @property
    def _nan_magnitude(self) -> int | None:
        """NaN as a magnitude code; where NaN is the -0 slot, a marker that `_with_sign` resolves."""
        return self._max_code + 1 if self.nan_at_negative_zero else self.nan_code

    def _below_range(self, code: Codes, magnitude: FloatArray, infinite: BoolArray, overflow: Overflow) -> Codes:
        """Without a zero: what would round to it becomes the smallest value, zero itself NaN if asked."""
        code = np.maximum(code, 0)
        if overflow is Overflow.NONSATURATING and self.nan_code is not None:
            code = np.where((magnitude == 0) & ~infinite, self.nan_code, code)
        return code

    def _unsigned(self, code: Codes, x: FloatArray, overflow: Overflow) -> Codes:
        below = x < 0
        if overflow is Overflow.NONSATURATING and self.nan_code is not None:
            code = np.where(below, self.nan_code, code)
        else:
            code = np.where(below, 0, code)
        return np.asarray(code).astype(self.code_dtype)

    def _with_sign(self, code: Codes, negative: BoolArray) -> Codes:
        if not self.nan_at_negative_zero:
            return (code | np.where(negative, self._sign_bit, 0)).astype(self.code_dtype)
        signed = np.where(negative & (code != 0), code | self._sign_bit, code)
        if not self.has_infinity:
            signed = np.where(code > self._max_code, self._sign_bit, signed)
        return np.asarray(signed).astype(self.code_dtype)

    def _nan_codes(self, negative: BoolArray) -> Codes:
        codes = super()._nan_codes(negative)
        if self.is_signed and not self.nan_at_negative_zero:
            codes = codes | np.where(negative, self._sign_bit, 0).astype(self.code_dtype)
        return codes


def _parameter_name(fmt: FloatFormat) -> str:
    """The name that `float_names` reads back."""
    name = "" if fmt.is_signed else "u"
    name += f"e{fmt.exponent_bits}m{fmt.mantissa_bits}b{fmt.bias}"
    name += "i" if fmt.has_infinity else ""
    name += f"n{fmt.nan_codes}" if fmt.nan_codes else ""
    name += "z" if fmt.nan_at_negative_zero else ""
    name += "" if fmt.subnormals else "d" if fmt.zero_at_bottom else "o"
    return name + ("" if fmt.overflow_to_nan else "c")
