"""Search tables: how any format of at most 8 bits is encoded and decoded without arithmetic of its own.

A nearest-type encoder is monotone, so along the ordered float32 patterns its codes form at most 256 steps. The places
of the steps (thresholds) come from the format's own `encode` by bisection, so every rounding rule and every tie is
reproduced exactly, on every device:

    rank = how many thresholds do not exceed ordered(y)         code = codes[rank]

Ordered patterns are int32: `o = bits ^ ((bits >> 31) & 0x7FFFFFFF)`, which sorts like the values, -0 just below +0.

Stochastic rounding looks at the levels `below <= y <= above` around the value, in float64 (IEEE operations alone):

    frac = (y - below) / (above - below)        up when min(floor(frac · 2^24), 2^24 - 1) + R >= 2^24

because the quotient of a value just below its upper level may be rounded to 1. `mirrored` formats (minifloats, RF8)
count frac from the level nearer to zero instead, so that -y rounds like y.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.formats import Format
from narrowgauge.formats.rounding import RANDOM_BITS, Rounding

ROWS = 256
THRESHOLDS, CODES, VALUES, LEVELS, LEVEL_CODES = (ROWS * section for section in range(5))
"""Where the sections of a device's blob begin, in int32 words."""
_BEYOND = 0x7FFFFFFF


class SearchTable(NamedTuple):
    """thresholds: int32 [ranks - 1], ascending ordered patterns. codes: int32 [ranks]. levels, level_codes: the
    distinct values that codes reach, float32 ascending, and their codes. negative_zero: the code of -0. mirrored: see
    the module; None where stochastic rounding follows neither rule."""

    thresholds: NDArray[np.int32]
    codes: NDArray[np.int32]
    levels: NDArray[np.float32]
    level_codes: NDArray[np.int32]
    negative_zero: int
    mirrored: bool | None


def ordered(x: NDArray[np.float32]) -> NDArray[np.int32]:
    """Ordered patterns of float32 numbers."""
    bits = x.view(np.int32)
    return bits ^ ((bits >> 31) & _BEYOND)


def unordered(patterns: NDArray[np.integer]) -> NDArray[np.float32]:
    """The float32 numbers of ordered patterns."""
    narrow = patterns.astype(np.int32)
    return (narrow ^ ((narrow >> 31) & _BEYOND)).view(np.float32)


def float32_values(fmt: Format) -> NDArray[np.float32]:
    """The value of each code as float32, by unsigned bit pattern: infinite or rounded beyond float32's normal numbers,
    where no group's values lie. ValueError if a value among those is no float32 number."""
    values = fmt.values()
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    off = in_float32_range(values) & (narrow.astype(np.float64) != values)
    if off.any():
        raise ValueError(
            f"format: {fmt.name} holds {float(values[off][0])!r}, which is no float32 number; kernels compute in "
            "float32 (CodebookFormat.from_values makes a format of rounded values)"
        )
    return narrow


def in_float32_range(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values are zero, or have the magnitude of a normal float32 number."""
    info, magnitude = np.finfo(np.float32), np.abs(values)
    return (magnitude == 0) | ((magnitude >= info.smallest_normal) & (magnitude <= info.max))


@lru_cache(maxsize=256)
def search_table(fmt: Format, flush: bool = False, rounding: Rounding | None = None) -> SearchTable:
    """The table of a rounding rule, by default the format's own. flush: subnormal results become zero.

    ValueError for values that are no float32 numbers and for rules that do not ascend with the value.
    """
    values = float32_values(fmt)

    def encode(x: NDArray[np.float32]) -> NDArray[np.int64]:
        return fmt.encode(x, rounding, subnormals="flush" if flush else "gradual").astype(np.int64)

    starts = np.concatenate([values[~np.isnan(values)], np.asarray([-np.inf, np.inf, -0.0, 0.0], np.float32)])
    places, reached = _bisected(encode, np.unique(ordered(starts)).astype(np.int64))
    step = np.flatnonzero(reached[1:] != reached[:-1])
    codes = reached[np.concatenate([[0], step + 1])]
    if len(np.unique(codes)) != len(codes):
        raise ValueError(f"format: {fmt.name} rounds a larger value to a smaller one; kernels serve monotone rules")
    levels, level_codes = search_table(fmt)[2:4] if flush else _levels(values[codes & (2**fmt.bits - 1)], codes)
    table = SearchTable(
        thresholds=places[step + 1].astype(np.int32),
        codes=codes.astype(np.int32),
        levels=levels,
        level_codes=level_codes.astype(np.int32),
        negative_zero=int(fmt.encode(-0.0)),
        mirrored=None,
    )
    if flush:
        # The levels stay, for the probabilities; what they are stored as is flushed.
        return table._replace(level_codes=encode(levels).astype(np.int32), mirrored=search_table(fmt).mirrored)
    return table if rounding is not None else table._replace(mirrored=_stochastic_rule(fmt, table))


def _levels(values: NDArray[np.float32], codes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distinct values in ascending order and their codes. -0 and +0 are one, whose code is that of +0, the later."""
    levels, last = np.unique(values[::-1] + np.float32(0), return_index=True)
    return levels, codes[::-1][last]


def _bisected(
    encode: Callable[[NDArray[np.float32]], NDArray[np.int64]], places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ordered patterns and their codes: `places`, and what it takes for every change of code to lie between
    neighbours."""
    codes = encode(unordered(places))
    while True:
        apart = np.flatnonzero((codes[1:] != codes[:-1]) & (np.diff(places) > 1))
        if not apart.size:
            return places, codes
        middles = (places[apart] + places[apart + 1]) >> 1
        places, codes = np.insert(places, apart + 1, middles), np.insert(codes, apart + 1, encode(unordered(middles)))


def _stochastic_rule(fmt: Format, table: SearchTable) -> bool | None:
    """Which of the two rules the format's own stochastic rounding follows, by its codes between all neighbours."""
    values = fmt.values()
    if (
        not (in_float32_range(values) | ~np.isfinite(values)).all()
        and (table.levels.astype(np.float64) != fmt.decode(table.level_codes)).any()
    ):
        return None  # levels that float32 does not hold
    below, above = table.levels[:-1].astype(np.float64), table.levels[1:].astype(np.float64)
    shares = np.asarray([0.0, 0.2, 0.5, 0.8])[:, None]
    x = np.concatenate(
        [(below + shares * (above - below)).astype(np.float32).reshape(-1), np.asarray([-0.0, 0.0], np.float32)]
    )
    random = np.arange(x.size, dtype=np.int64) * 0x9E3779B1 % (1 << RANDOM_BITS)
    for bits in (random, (1 << RANDOM_BITS) - 1 - random):
        try:
            expected = fmt.encode(x, "stochastic", random_bits=bits)
        except ValueError:
            return None
        fits = [rule for rule in (False, True) if np.array_equal(_stochastic(x, bits, table, rule), expected)]
        if len(fits) != 2:
            return fits[0] if fits else None
    return False


def _stochastic(
    x: NDArray[np.float32], random: NDArray[np.int64], table: SearchTable, mirrored: bool
) -> NDArray[np.int64]:
    """Codes of finite x, the twin of the torch and Triton versions."""
    levels = table.levels.astype(np.float64)
    clipped = np.clip(x.astype(np.float64), levels[0], levels[-1])
    low = np.searchsorted(levels, clipped, side="right") - 1
    high = np.minimum(low + 1, len(levels) - 1)
    negative = np.signbit(x) & mirrored
    step = np.where(high > low, levels[high] - levels[low], 1.0)
    frac = np.where(negative, levels[high] - clipped, clipped - levels[low]) / step
    whole = np.minimum(np.floor(frac * (1 << RANDOM_BITS)).astype(np.int64), (1 << RANDOM_BITS) - (not mirrored))
    moves = whole + random >= 1 << RANDOM_BITS
    rank = np.where(moves != negative, high, low)
    if mirrored:
        # No zero between the two: a magnitude below the smallest becomes the smallest.
        crossing = (levels[low] < 0) & (levels[high] > 0)
        rank = np.where(crossing, np.where(negative, low, high), rank)
    codes = table.level_codes[rank].astype(np.int64)
    return np.where(negative & (levels[rank] == 0), table.negative_zero, codes)


@lru_cache(maxsize=256)
def table_blob(fmt: Format, device: torch.device, flush: bool = False) -> Tensor:
    """int32 [1280] on `device`, what the Triton functions read: thresholds, codes by rank, values (float32 bits) by
    code byte, ordered patterns of the levels, their codes."""
    table, values = search_table(fmt, flush), float32_values(fmt)
    blob = np.zeros((5, ROWS), np.int32)
    blob[0], blob[3] = _BEYOND, _BEYOND
    blob[0, : len(table.thresholds)] = table.thresholds
    blob[1, : len(table.codes)] = table.codes
    blob[2] = np.tile(values, ROWS // len(values)).view(np.int32)
    blob[3, : len(table.levels)] = ordered(table.levels)
    blob[4, : len(table.level_codes)] = table.level_codes
    return torch.from_numpy(blob.reshape(-1)).to(device)
