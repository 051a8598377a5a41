"""Integers and fixed point: a two's-complement or unsigned code is worth code · 2^-fraction_bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from narrowgauge.formats.format import Codes, Format, smallest_unsigned
from narrowgauge.formats.rounding import CastMode, FloatArray


@dataclass(frozen=True, kw_only=True)
class IntFormat(Format):
    """`width`-bit integer. `restricted`: the most negative code is left unused so that the range is symmetric
    (±127 for int8, as MX and every symmetric quantizer need); it still decodes. There is no NaN and no
    infinity: every overflow saturates. Without a name it is called after its parameters: `int6`, `uint8`,
    `int8_full`, `int8f6` (6 fraction bits).
    """

    width: int
    is_signed: bool = True
    restricted: bool = True
    fraction_bits: int = 0

    def __post_init__(self) -> None:
        if not self.name:
            fraction = f"f{self.fraction_bits}" if self.fraction_bits else ""
            full = "" if self.restricted else "_full"
            object.__setattr__(self, "name", f"{'' if self.is_signed else 'u'}int{self.width}{fraction}{full}")
        if not 2 <= self.width <= 32:
            raise ValueError(f"width: {self.name} takes 2 to 32 bits, got {self.width}")

    @property
    def family(self) -> str:
        return "integer"

    @property
    def layout(self) -> str:
        kind = "two's complement" if self.is_signed else "unsigned"
        point = f", {self.fraction_bits} of them behind the point" if self.fraction_bits else ""
        return f"{kind}, {self.width} bits{point}; codes {self.min_code} to {self.max_code}"

    @property
    def bits(self) -> int:
        return self.width

    @property
    def code_dtype(self) -> np.dtype[np.integer]:
        unsigned = smallest_unsigned(self.width)
        return np.dtype(f"i{unsigned.itemsize}") if self.is_signed else unsigned

    @property
    def signed(self) -> bool:
        return self.is_signed

    @property
    def has_inf(self) -> bool:
        return False

    @property
    def has_nan(self) -> bool:
        return False

    @property
    def nan_code(self) -> int | None:
        return None

    @property
    def has_zero(self) -> bool:
        return True

    @property
    def max_code(self) -> int:
        """Largest code."""
        return int(2 ** (self.width - int(self.is_signed)) - 1)

    @property
    def min_code(self) -> int:
        """Smallest code that `encode` gives."""
        if not self.is_signed:
            return 0
        return -self.max_code if self.restricted else -self.max_code - 1

    @property
    def step(self) -> float:
        """Distance between neighbouring values."""
        return float(2.0**-self.fraction_bits)

    @property
    def max(self) -> float:
        return self.max_code * self.step

    @property
    def min(self) -> float:
        return self.min_code * self.step

    @property
    def smallest_normal(self) -> float:
        return self.step

    @property
    def smallest_subnormal(self) -> float:
        return self.step

    @property
    def epsilon(self) -> float:
        return self.step

    def decode(self, codes: ArrayLike) -> FloatArray:
        wide = self._integer_codes(codes)
        if self.is_signed:
            wide = np.where(wide >= 2 ** (self.width - 1), wide - 2**self.width, wide)
        return np.asarray(np.ldexp(wide.astype(np.float64), -self.fraction_bits))

    def _encode(self, x: FloatArray, how: CastMode) -> Codes:
        # Clamped first, so that infinities and huge values become integers; no rounding changes by it.
        scaled = np.ldexp(np.clip(x, self.min, self.max), self.fraction_bits)
        magnitude = np.abs(scaled)
        low = np.floor(magnitude)
        negative = np.signbit(scaled)
        low += how.rounds_away(magnitude - low, low % 2 == 1, negative)
        return np.where(negative, -low, low).astype(self.code_dtype)


def fixed_point(integer_bits: int, fraction_bits: int) -> IntFormat:
    """Qm.n, the ARM convention: two's complement of a sign, m integer and n fraction bits (m + n + 1)."""
    if integer_bits < 0 or fraction_bits < 0:
        raise ValueError(f"Qm.n: m and n must be non-negative, got q{integer_bits}.{fraction_bits}")
    return IntFormat(
        name=f"q{integer_bits}.{fraction_bits}",
        width=integer_bits + fraction_bits + 1,
        fraction_bits=fraction_bits,
        restricted=False,
    )
