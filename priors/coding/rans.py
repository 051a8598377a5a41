"""rANS: asymmetric numeral systems with ranges (Duda, arXiv 1311.2540), many states side by side.

With frequencies f that sum to M = 2^n and c the sum of those before, a state x takes in a symbol s by

    x -> (x div f)·M + c + (x mod f)          decoded by  s: c <= x mod M < c + f,   x -> f·(x div M) + x mod M - c

A state stays in [2^16, 2^32): before a symbol that would carry it beyond, its low 16 bits are written; after one that
takes it below, they are read. Symbols are laid in rows of `lanes`, a state for each column. States write in turn into
one string of 16-bit words; the encoder goes backwards, so that the decoder reads it from the beginning, row by row.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from narrowgauge.priors.coding.alphabet import IntArray

States: TypeAlias = NDArray[np.uint32]
Shorts: TypeAlias = NDArray[np.uint16]
LOWEST = 1 << 16
SCALE_BITS = 15
_FEW = 2048


def scale_bits(distinct: int) -> int:
    """n of M = 2^n: 15, and 16 for alphabets that 15 would serve badly."""
    return SCALE_BITS if distinct <= _FEW else 16


def frequencies(counts: IntArray, bits: int) -> IntArray:
    """Positive integers near counts / total · 2^bits with the sum 2^bits. What rounding leaves over is given to, or
    taken from, those symbols where it matters most, or least, to the length of the code."""
    total = 1 << bits
    if counts.size > total:
        raise ValueError(f"symbols: {counts.size} distinct ones, accepted: {total}")
    if not counts.size:
        return counts
    result = np.maximum(np.rint(counts * (total / counts.sum())), 1).astype(np.int64)
    while (left := total - int(result.sum())) != 0:
        step = 1 if left > 0 else -1
        may = np.flatnonzero(result + step >= 1)
        change = counts[may] * np.log2((result[may] + step) / result[may])
        chosen = may[np.argsort(-change, kind="stable")[: abs(left)]]
        result[chosen] += step
    return result


def encode(index: NDArray[Any], lanes: int, freqs: States, starts: States, bits: int) -> tuple[States, Shorts]:
    """(states, words) of symbols by index; freqs and starts (f and c): by index, uint32."""
    states = np.full(lanes, LOWEST, dtype=np.uint32)
    space = np.uint32(1 << bits) - freqs
    shift = np.uint32(32 - bits)
    words: list[Shorts] = []
    for first in range((index.size - 1) // lanes * lanes, -1, -lanes):
        row = index[first : first + lanes].astype(np.intp)
        x = states[: row.size]
        f = freqs.take(row, mode="wrap")
        full = np.flatnonzero(x >> shift >= f)
        high = x.take(full, mode="wrap")
        words.append(high.astype(np.uint16))
        x[full] = high >> np.uint32(16)
        # x div f · M + x mod f = x + (x div f) · (M - f)
        quotient = x // f
        quotient *= space.take(row, mode="wrap")
        x += quotient
        x += starts.take(row, mode="wrap")
    words.reverse()
    return states, np.concatenate(words) if words else np.zeros(0, dtype=np.uint16)


def decode(states: States, words: Shorts, count: int, symbols: NDArray[Any], steps: States, bits: int) -> NDArray[Any]:
    """The symbols. symbols: of each of the M places; steps: f of each place in the high half, its distance from c in
    the low one. ValueError for words that no encoder wrote."""
    lanes = states.size
    result = np.empty(count, dtype=symbols.dtype)
    x = states.copy()
    at = 0
    mask, shift, half = np.uint32((1 << bits) - 1), np.uint32(bits), np.uint32(16)
    place = np.empty(lanes, dtype=np.intp)
    for first in range(0, count, lanes):
        row = result[first : first + lanes]
        own, here = x[: row.size], place[: row.size]
        np.copyto(here, own & mask)
        symbols.take(here, out=row, mode="wrap")
        entry = steps.take(here, mode="wrap")
        own >>= shift
        own *= entry >> half
        own += entry & np.uint32(0xFFFF)
        low = np.flatnonzero(own < LOWEST)
        fresh = words[at : at + low.size]
        at += low.size
        if fresh.size < low.size:
            raise ValueError("the code is damaged: it ends too early")
        own[low] = own.take(low, mode="wrap") << half | fresh
    if at != words.size or (x != LOWEST).any():
        raise ValueError("the code is damaged: its states do not end where they began")
    return result


def place_tables(freqs: IntArray, values: NDArray[Any]) -> tuple[NDArray[Any], States]:
    """(symbols, steps) of `decode`, by place; freqs and values by rank."""
    inside = np.arange(int(freqs.sum())) - np.repeat(np.cumsum(freqs) - freqs, freqs)
    return np.repeat(values, freqs), (np.repeat(freqs, freqs) << 16 | inside).astype(np.uint32)
