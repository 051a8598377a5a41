"""Prefix codes in lanes: encoding by tables of pairs, decoding one symbol of thousands of lanes at a time.

The codewords of all symbols stand one after the other without a gap. Every `steps` symbols are a lane, whose length in
bits is kept: lanes can be decoded beside each other, each by a look at its next bits in a table of 2^width entries,

    entry = table[next `width` bits] → symbol, length of its codeword;  a length of 0: the codeword is longer (escape)

so that one numpy operation serves all lanes. A lane has to end where the next one begins, which is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from narrowgauge.priors.coding.bitstream import WORD, Bytes, Words, join, pack, window, words_of
from narrowgauge.priors.coding.parallel import each

IntArray: TypeAlias = NDArray[np.int64]
Chunks: TypeAlias = Callable[[int, int], tuple[Words, Words]]
"""(start, stop) → values and lengths of chunks of codewords: a codeword in two, one, or a power of two in one."""
Escape: TypeAlias = Callable[[Words, IntArray], tuple[NDArray[Any], IntArray]]
"""(words, positions) → the symbols whose codewords begin there and their lengths; ValueError if there is none."""

WIDTH = 16
"""Most bits looked at for one symbol."""
_PART = 1 << 17
_LANES = 4096
_ROWS = 64


def lane_steps(bits: int, count: int) -> int:
    """Symbols in a lane: a power of two, so many that 16 bits for the length of each are 1/200 of the code or less."""
    wanted = 3200 * count // max(bits, 1)
    return 1 << min(max(wanted, 64) - 1, 8191).bit_length()


def write(count: int, steps: int, chunks: Chunks) -> tuple[IntArray, Bytes]:
    """(bits of each lane, the code) of `count` symbols."""

    def part(start: int) -> tuple[IntArray, Words, int]:
        stop = min(start + _PART, count)
        values, lengths = chunks(start, stop)
        # A chunk never belongs to two lanes: both have powers of two of symbols.
        lane = np.arange(0, stop - start, steps) * _ratio(lengths.size, stop - start)
        lanes = np.add.reduceat(lengths, lane.astype(np.int64)).astype(np.int64)
        return lanes, *pack(*_merged(values, lengths))

    parts = each(part, range(0, count, _PART))
    bits = sum(length for _, _, length in parts)
    lanes = np.concatenate([lanes for lanes, _, _ in parts]) if parts else np.zeros(0, dtype=np.int64)
    return lanes, join(((words, length) for _, words, length in parts), bits)


def _ratio(chunks: int, symbols: int) -> float:
    """Chunks for each symbol, a power of two; the last chunk may be a partial one."""
    return 2.0 ** round(np.log2(chunks / symbols)) if symbols > 1 else 1.0


def _merged(values: Words, lengths: Words) -> tuple[Words, Words]:
    """Neighbours as one chunk while all pairs fit a word."""
    while lengths.size > 1:
        if lengths.size % 2:
            values, lengths = np.append(values, np.uint64(0)), np.append(lengths, np.uint64(0))
        both = lengths[0::2] + lengths[1::2]
        if int(both.max()) > WORD:
            break
        values, lengths = values[0::2] << lengths[1::2] | values[1::2], both
    return values, lengths


def table_chunks(index: NDArray[Any], codes: Words, lengths: IntArray) -> Chunks:
    """Chunks of symbols by their indices, uint8 or uint16; codes, lengths: by index, at most 48 bits long."""
    single = codes << np.uint64(8) | lengths.astype(np.uint64)
    pairs = None
    if index.dtype == np.uint8 and 2 * int(lengths.max(initial=0)) <= WORD - 8:
        # A pair of bytes is a number whose low byte comes first.
        full = np.zeros(256, dtype=np.uint64)
        full[: single.size] = single
        code, length = full >> np.uint64(8), full & np.uint64(0xFF)
        both = (code << length[:, np.newaxis] | code[:, np.newaxis]) << np.uint64(8)
        pairs = (both | (length + length[:, np.newaxis])).reshape(-1)

    def chunks(start: int, stop: int) -> tuple[Words, Words]:
        part = index[start:stop]
        if pairs is None or part.size < 2:
            entries = single.take(part, mode="wrap")
        else:
            even = part.size // 2 * 2
            entries = pairs.take(part[:even].view("<u2"), mode="wrap")
            if even < part.size:
                entries = np.append(entries, single[part[even]])
        return entries >> np.uint64(8), entries & np.uint64(0xFF)

    return chunks


@dataclass(frozen=True)
class Table:
    """What the next `width` bits begin with: symbols (of the type to decode to) and lengths (uint64), 2^width each."""

    width: int
    symbols: NDArray[Any]
    lengths: Words


def read(stored: Bytes, lanes: IntArray, count: int, steps: int, table: Table, escape: Escape | None) -> NDArray[Any]:
    """The `count` symbols of a code. ValueError for one that is damaged."""
    ends = np.cumsum(lanes)
    bits = int(ends[-1]) if ends.size else 0
    if lanes.size != -(-count // steps) or stored.size != -(-bits // 8) or lanes.min(initial=0) < 0:
        raise ValueError(f"the code has {stored.size} bytes and {lanes.size} lanes, which do not fit {count} symbols")
    words = words_of(stored)
    result = np.empty(count, dtype=table.symbols.dtype)

    def part(first: int) -> None:
        last = min(first + _LANES, lanes.size)
        own = slice(first * steps, min(last * steps, count))
        _read_lanes(words, ends[first:last] - lanes[first:last], ends[first:last], result[own], steps, table, escape)

    each(part, range(0, lanes.size, _LANES))
    return result


def _read_lanes(
    words: Words,
    position: IntArray,
    ends: IntArray,
    result: NDArray[Any],
    steps: int,
    table: Table,
    escape: Escape | None,
) -> None:
    """Fills `result` with the symbols of these lanes, of which the last may be shorter."""
    lanes = ends.size
    short = result.size - (lanes - 1) * steps
    rows = np.empty((lanes, _ROWS), dtype=result.dtype)
    head = _Head(words, position, table, escape)
    for first in range(0, steps if lanes > 1 else short, _ROWS):
        for step in range(first, min(first + _ROWS, steps if lanes > 1 else short)):
            if step == short:
                _check_ends(head.position[-1:], ends[-1:])
                head.drop_last()
            head.next(step, rows[: head.position.size, step - first])
        stop = min(first + _ROWS, steps)
        result[: (lanes - 1) * steps].reshape(lanes - 1, steps)[:, first:stop] = rows[:-1, : stop - first]
        result[(lanes - 1) * steps + first : (lanes - 1) * steps + stop] = rows[-1, : max(0, min(stop, short) - first)]
    _check_ends(head.position, ends[: head.position.size])


class _Head:
    """Where each lane is: the bit it is at, and the bits from there, which are fetched for several symbols at once."""

    def __init__(self, words: Words, position: IntArray, table: Table, escape: Escape | None) -> None:
        self.position = position
        self._words, self._table, self._escape = words, table, escape
        self._limit = np.int64((words.size - 2) * WORD)
        self._top = np.uint64(WORD - table.width)
        self._at_once = WORD // max(table.width, 1)
        self._bits = np.empty(position.size, dtype=np.uint64)
        self._ahead = np.empty(position.size, dtype=np.uint64)
        self._length = np.empty(position.size, dtype=np.uint64)

    def drop_last(self) -> None:
        """The last lane is at its end."""
        self.position, self._bits = self.position[:-1], self._bits[:-1]
        self._ahead, self._length = self._ahead[:-1], self._length[:-1]

    def next(self, step: int, out: NDArray[Any]) -> None:
        """Decodes the symbol `step` of every lane into `out`."""
        bits, length, position = self._bits, self._length, self.position
        if step % self._at_once == 0:
            # Of a damaged code positions may be anywhere.
            np.minimum(position, self._limit, out=position)
            bits[:] = window(self._words, position)
        np.right_shift(bits, self._top, out=self._ahead)
        places = self._ahead.view(np.int64)
        out[:] = self._table.symbols.take(places, mode="wrap")
        self._table.lengths.take(places, out=length, mode="wrap")
        if self._escape is None or length.all():
            position += length.view(np.int64)
            bits <<= length
            return
        longer = np.flatnonzero(length == 0)
        start = np.minimum(position[longer], self._limit)
        out[longer], taken = self._escape(self._words, start)
        position += length.view(np.int64)
        bits <<= length
        position[longer] = np.minimum(start + taken, self._limit)
        bits[longer] = window(self._words, position[longer])


def _check_ends(position: IntArray, ends: IntArray) -> None:
    if not np.array_equal(position, ends):
        raise ValueError("the code is damaged: a lane does not end where the next one begins")
