"""Codebooks: any table of at most 2^16 values with a rounding rule (NF4, dynamic trees, RF8, one's own)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from math import nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.format import Codes, Format, smallest_unsigned
from narrowgauge.formats.rounding import (
    BoolArray,
    CastMode,
    FloatArray,
    Rounding,
    fraction_between,
    quotient_between,
)


@dataclass(frozen=True, kw_only=True)
class CodebookFormat(Format):
    """`table[code]` is the value of each code; NaN marks codes that are not numbers.

    Values may stand in any order and may repeat (the lowest code is the canonical one). Nearest rounding
    compares with the midpoints, exactly; a tie goes to the value of even rank (`nearest_even`), odd rank
    (`nearest_odd`), larger (`nearest_away`) or smaller magnitude (`nearest_zero`). The stochastic modes decide whether
    to take the upper neighbour by the fraction counted from the lower one. Beyond the ends everything saturates.
    Without a name it gets one from its contents.
    """

    table: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.name:
            digest = hashlib.blake2b(np.asarray(self.table, dtype=np.float64).tobytes(), digest_size=4)
            object.__setattr__(self, "name", f"codebook_{digest.hexdigest()}")
        size = len(self.table)
        if not 2 <= size <= 2**16:
            raise ValueError(f"table: {self.name} needs 2 to 65536 values, got {size}")
        # One NaN object for all, because tuples compare NaN by identity: equal tables are equal formats.
        object.__setattr__(self, "table", tuple(nan if v != v else float(v) for v in self.table))
        finite = [abs(value) for value in self.table if np.isfinite(value)]
        if not finite:
            raise ValueError(f"table: {self.name} has no finite value")
        if max(finite) > 2.0**1022:
            raise ValueError(f"table: {self.name} holds {max(finite)}, at most 2^1022 is accepted")

    @classmethod
    def from_values(cls, values: Iterable[float], name: str = "") -> CodebookFormat:
        """A format from its values: code i is worth `values[i]`, NaN marks codes that are not numbers.

        values: 2 to 65,536 numbers (an array, a list), taken as float32, in which kernels hold them. ValueError for
        values beyond float32 and for tables without a finite value.
        """
        table = np.asarray(list(values), dtype=np.float64)
        beyond = np.isfinite(table) & (np.abs(table) > float(np.finfo(np.float32).max))
        if np.any(beyond):
            raise ValueError(f"values: got {table[beyond][0]}, accepted: numbers that float32 holds")
        return CodebookFormat(name=name, table=tuple(float(v) for v in table.astype(np.float32)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), {field.name: getattr(self, field.name) for field in fields(self) if field.init})

    @property
    def family(self) -> str:
        return "codebook"

    @property
    def layout(self) -> str:
        return f"a table of {len(self.table)} values"

    @property
    def bits(self) -> int:
        return (len(self.table) - 1).bit_length()

    @property
    def code_dtype(self) -> np.dtype[np.integer]:
        return smallest_unsigned(self.bits)

    @cached_property
    def _values(self) -> FloatArray:
        padded = np.full(2**self.bits, np.nan)
        padded[: len(self.table)] = self.table
        return padded

    @cached_property
    def ranked(self) -> tuple[FloatArray, NDArray[np.int64]]:
        """Distinct finite values in ascending order, and the canonical code of each."""
        finite = np.flatnonzero(np.isfinite(self._values))
        levels, first = np.unique(self._values[finite], return_index=True)
        return levels, finite[first].astype(np.int64)

    @property
    def signed(self) -> bool:
        return bool(self.ranked[0][0] < 0)

    @property
    def has_inf(self) -> bool:
        return bool(np.isinf(self._values).any())

    @property
    def has_nan(self) -> bool:
        return self.nan_code is not None

    @property
    def nan_code(self) -> int | None:
        nan = np.flatnonzero(np.isnan(self._values))
        return int(nan[0]) if nan.size else None

    @property
    def has_zero(self) -> bool:
        return bool((self.ranked[0] == 0).any())

    @property
    def max(self) -> float:
        return float(self.ranked[0][-1])

    @property
    def min(self) -> float:
        return float(self.ranked[0][0])

    @property
    def smallest_normal(self) -> float:
        return self.smallest_subnormal

    @property
    def smallest_subnormal(self) -> float:
        levels = self.ranked[0]
        return float(levels[levels > 0][0])

    @property
    def epsilon(self) -> float:
        levels = self.ranked[0]
        index = int(np.clip(np.searchsorted(levels, 1.0, side="right"), 1, len(levels) - 1))
        return float(levels[index] - levels[index - 1])

    def decode(self, codes: ArrayLike) -> FloatArray:
        wide = self._integer_codes(codes)
        if wide.size and int(wide.min()) < 0:
            raise ValueError(f"codes: {self.name} has unsigned codes, got {wide.min()}")
        return np.asarray(self._values[wide])

    def _encode(self, x: FloatArray, how: CastMode) -> Codes:
        levels, codes = self.ranked
        clipped = np.clip(x, levels[0], levels[-1])
        low = np.searchsorted(levels, clipped, side="right") - 1
        between = quotient_between if how.stochastic else fraction_between
        frac = between(clipped, levels[low], levels[np.minimum(low + 1, len(levels) - 1)])
        up = _goes_up(clipped, low, frac, how)
        return codes[low + up].astype(self.code_dtype)


def _goes_up(x: FloatArray, low: NDArray[np.int64], frac: FloatArray, how: CastMode) -> BoolArray:
    """Whether each value takes level `low + 1`: the shared table, with "away" meaning up in rank."""
    if how.rounding is Rounding.TOWARD_ZERO:
        return (x < 0) & (frac > 0)
    if how.rounding in (Rounding.NEAREST_AWAY, Rounding.NEAREST_ZERO):
        up = x > 0 if how.rounding is Rounding.NEAREST_AWAY else x < 0
        return (frac > 0.5) | ((frac == 0.5) & up)
    return how.rounds_away(frac, low % 2 == 1, np.zeros(x.shape, dtype=np.bool_))


def _rebuild(kind: type[CodebookFormat], arguments: dict[str, Any]) -> CodebookFormat:
    """Unpickles through the constructor, so that a copy from another process equals the original."""
    return kind(**arguments)
