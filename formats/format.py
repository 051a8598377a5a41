"""What every number format can say of itself, and the encode/decode contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.rounding import (
    RANDOM_BITS,
    BoolArray,
    CastMode,
    FloatArray,
    NanPolicy,
    Overflow,
    Rounding,
    Subnormals,
    choice,
)
from narrowgauge.formats.rules import ScaleRule

Codes = NDArray[np.integer]

MOST_LISTED_BITS = 20
"""Width up to which a format lists all its codes and values."""


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """A set of numbers and their codes: frozen, hashable data from which every limit is derived.

    `decode` and `encode` are the definition the kernels are held against: vectorised numpy, exact, one
    rounding from float64 and none through a narrower type.
    """

    name: str = ""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Width of one code."""

    @property
    @abstractmethod
    def code_dtype(self) -> np.dtype[np.integer]:
        """dtype of the code arrays (the smallest numpy integer type that holds a code)."""

    @property
    @abstractmethod
    def signed(self) -> bool:
        """Whether negative values exist."""

    @property
    @abstractmethod
    def has_inf(self) -> bool:
        """Whether some code is an infinity."""

    @property
    @abstractmethod
    def has_nan(self) -> bool:
        """Whether some code is NaN."""

    @property
    @abstractmethod
    def max(self) -> float:
        """Largest finite value."""

    @property
    @abstractmethod
    def min(self) -> float:
        """Most negative finite value (or the smallest value of an unsigned format)."""

    @property
    @abstractmethod
    def smallest_normal(self) -> float:
        """Smallest positive value with full precision."""

    @property
    @abstractmethod
    def smallest_subnormal(self) -> float:
        """Smallest positive value."""

    @property
    @abstractmethod
    def epsilon(self) -> float:
        """Distance from 1 to the next larger value; in the last binade if that lies below 1."""

    @property
    @abstractmethod
    def has_zero(self) -> bool:
        """Whether zero is a value."""

    @property
    def default_rounding(self) -> Rounding | None:
        """The rounding used when none is asked for; None where a format has a rule of its own (RF8)."""
        return Rounding.NEAREST_EVEN

    @property
    def default_rule(self) -> ScaleRule:
        """The scale rule of a scheme that names none: `amax`, or what a format is defined with."""
        return ScaleRule.AMAX

    @property
    @abstractmethod
    def family(self) -> str:
        """What kind of format this is, in a word or two, for tables."""

    @property
    @abstractmethod
    def layout(self) -> str:
        """What the bits of a code mean, in a sentence."""

    @property
    def amax_target(self) -> float:
        """The value that scale rules take the largest magnitude of a group to: `max`, or, of formats whose precision
        fades towards their ends, the end of the range that has most of it."""
        return self.max

    @abstractmethod
    def decode(self, codes: ArrayLike) -> FloatArray:
        """Values (float64) of `codes`, an integer array of any shape; TypeError on any other dtype."""

    @abstractmethod
    def _encode(self, x: FloatArray, how: CastMode) -> Codes:
        """Codes of `x`, which holds no NaN."""

    @property
    @abstractmethod
    def nan_code(self) -> int | None:
        """The canonical NaN code, None where the format has none."""

    def encode(
        self,
        x: ArrayLike,
        rounding: Rounding | str | None = None,
        overflow: Overflow | str = Overflow.SATURATE,
        nan: NanPolicy | str = NanPolicy.KEEP,
        random_bits: ArrayLike | None = None,
        num_random_bits: int = RANDOM_BITS,
        subnormals: Subnormals | str = Subnormals.GRADUAL,
    ) -> Codes:
        """Codes of `x` (any shape; taken as float64), rounded once.

        rounding: see `Rounding`; None is the format's own rule. overflow: see `Overflow`. nan: `keep` gives
        the canonical NaN code with the sign of the input and is an error where the format has no NaN; `zero`
        and `max` substitute; `raise` is an error in any case. random_bits: for the stochastic modes and
        `nearest_random`, integers in [0, 2**num_random_bits) broadcastable to `x`; num_random_bits: 1 to 32.
        subnormals: see `Subnormals`; formats without subnormals (integers, codebooks) have nothing to flush.

        Raises ValueError for a NaN that cannot be kept and for unknown modes.
        """
        mode = self.default_rounding if rounding is None else choice(Rounding, rounding, "rounding")
        over = choice(Overflow, overflow, "overflow")
        policy = choice(NanPolicy, nan, "nan")
        flush = choice(Subnormals, subnormals, "subnormals")
        with np.errstate(invalid="ignore"):  # a signalling NaN
            values = np.asarray(x, dtype=np.float64)
        bits = None if random_bits is None else np.broadcast_to(np.asarray(random_bits), values.shape)
        how = CastMode(mode, over, bits, num_random_bits)
        if flush is Subnormals.FLUSH_INPUT:
            values = np.where(np.abs(values) < self.smallest_normal, np.copysign(0.0, values), values)
        isnan = np.isnan(values)
        if not isnan.any():
            return self._flushed(np.asarray(self._encode(values, how)), values, flush)
        if policy is NanPolicy.RAISE:
            raise ValueError(f"x: {int(isnan.sum())} NaN of {values.size} values, and nan='raise'")
        if policy is NanPolicy.KEEP and self.nan_code is None:
            raise ValueError(
                f"x: {int(isnan.sum())} NaN of {values.size} values and {self.name} has no NaN code; "
                "pass nan='zero' or nan='max'"
            )
        negative = np.signbit(values[isnan])
        values = np.where(isnan, self.max if policy is NanPolicy.MAX else 0.0, values)
        codes = self._flushed(np.asarray(self._encode(values, how)), values, flush)
        if policy is NanPolicy.KEEP:
            codes[isnan] = self._nan_codes(negative)
        return codes

    def _flushed(self, codes: Codes, x: FloatArray, flush: Subnormals) -> Codes:
        """`codes` of x, those of subnormal values replaced by the zero of their sign if asked."""
        if flush is not Subnormals.FLUSH or self.smallest_normal == self.smallest_subnormal:
            return codes
        magnitude = np.abs(self.decode(codes))
        zeros = self._encode(np.copysign(0.0, x), CastMode(self.default_rounding))
        return np.where((magnitude > 0) & (magnitude < self.smallest_normal), zeros, codes).astype(codes.dtype)

    def _nan_codes(self, negative: BoolArray) -> Codes:
        code = self.nan_code
        if code is None:
            raise ValueError(f"nan: {self.name} has no NaN code")
        return np.full(negative.shape, code, dtype=self.code_dtype)

    def round(self, x: ArrayLike, rounding: Rounding | str | None = None, **options: object) -> FloatArray:
        """`decode(encode(x, ...))`: the values that `x` becomes."""
        return self.decode(self.encode(x, rounding, **options))  # type: ignore[arg-type]

    def all_codes(self) -> Codes:
        """Every code, in order of its unsigned bit pattern; ValueError above 20 bits."""
        if self.bits > MOST_LISTED_BITS:
            raise ValueError(
                f"{self.name}: {self.bits}-bit formats have too many codes to list (at most {MOST_LISTED_BITS} bits)"
            )
        unsigned = np.arange(2**self.bits, dtype=np.uint32)
        if np.issubdtype(self.code_dtype, np.signedinteger):
            wrapped = unsigned.astype(np.int64)
            wrapped[wrapped >= 2 ** (self.bits - 1)] -= 2**self.bits
            return wrapped.astype(self.code_dtype)
        return unsigned.astype(self.code_dtype)

    def values(self) -> FloatArray:
        """Value of every code, NaN and infinities included: float64 [2**bits], by unsigned bit pattern."""
        return self.decode(self.all_codes())

    def _integer_codes(self, codes: ArrayLike) -> NDArray[np.int64]:
        array = np.asarray(codes)
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"codes: {self.name} expects integer codes, got dtype {array.dtype}")
        wide = array.astype(np.int64)
        low, high = (-(2 ** (self.bits - 1)), 2**self.bits - 1)
        if wide.size and (int(wide.min()) < low or int(wide.max()) > high):
            raise ValueError(
                f"codes: {self.name} has {self.bits}-bit codes, got values in [{wide.min()}, {wide.max()}]"
            )
        return wide


def smallest_unsigned(bits: int) -> np.dtype[np.integer]:
    """Smallest unsigned numpy dtype that holds `bits` bits."""
    for dtype in (np.uint8, np.uint16, np.uint32):
        if bits <= np.dtype(dtype).itemsize * 8:
            return np.dtype(dtype)
    raise ValueError(f"bits: at most 32, got {bits}")
