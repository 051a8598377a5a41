"""The coder `rans`: asymmetric numeral systems (`rans.py`) in blocks that are coded by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from narrowgauge.priors.coding import rans
from narrowgauge.priors.coding.alphabet import DENSE, IntArray, alphabet_of, checked_symbols
from narrowgauge.priors.coding.coder import register
from narrowgauge.priors.coding.parallel import each
from narrowgauge.priors.coding.record import (
    SIGNED,
    Coded,
    Sections,
    checked_values,
    named_type,
    narrowest,
    payload_of,
    type_name,
    whole,
)

MAX_LANES = 4096
_STATE_BITS = 32
_BLOCK = 1 << 24
_MOST_STEPS = 8192


def layout(count: int, bits: float) -> tuple[int, int]:
    """(lanes, symbols of a block) for `count` symbols whose code will have so many bits: the states that are stored
    take 1/200 of that or less, unless a state would have more than 8192 symbols."""
    states = max(1, int(bits / (200 * _STATE_BITS)), -(-count // _MOST_STEPS))
    lanes = 1 << min(states, MAX_LANES).bit_length() - 1
    blocks = max(1, states // lanes if lanes == MAX_LANES else 1, -(-count // _BLOCK))
    return lanes, max(1, -(-count // blocks))


@register("rans")
class Rans:
    """rANS with frequencies of 15 bits (16 above 2048 distinct symbols), for at most 65536 distinct symbols."""

    name: ClassVar[str]

    def encode(self, symbols: Any) -> Coded:
        """Codes integers. ValueError for more distinct ones."""
        flat = checked_symbols(symbols)
        alphabet = alphabet_of(flat)
        if alphabet.counts.size > DENSE:
            raise ValueError(
                f"symbols: got {alphabet.counts.size} distinct ones, accepted: {DENSE} (exp-golomb takes more)"
            )
        scale = rans.scale_bits(alphabet.counts.size)
        by_rank = rans.frequencies(alphabet.counts, scale)
        starts = np.cumsum(by_rank) - by_rank
        freqs = alphabet.spread(by_rank.astype(np.uint32))
        begins = alphabet.spread(starts.astype(np.uint32))
        lanes, block = layout(flat.size, rans_bits(alphabet.counts, by_rank))
        parts = each(
            lambda first: rans.encode(alphabet.index[first : first + block], lanes, freqs, begins, scale),
            range(0, flat.size, block),
        )
        values = narrowest(alphabet.values, SIGNED)
        sizes = [int(words.size) for _, words in parts]
        parameters = {
            "lanes": lanes, "block": block, "scale_bits": scale, "values": type_name(values), "words": sizes,
        }  # fmt: skip
        stored = [array.astype(array.dtype.newbyteorder("<")) for part in parts for array in part]
        payload = payload_of(values, (by_rank - 1).astype("<u2"), *stored)
        return Coded(
            self.name, type_name(flat), flat.size, alphabet.counts.size, alphabet.entropy, _bits(parts), parameters,
            payload,
        )  # fmt: skip

    @classmethod
    def decode(cls, coded: Coded) -> NDArray[Any]:
        """The symbols. ValueError for a record that is damaged."""
        parameters, sections = coded.parameters, Sections(coded.payload)
        lanes, block = whole(parameters, "lanes", 1, MAX_LANES), whole(parameters, "block", 1, max(coded.count, 1))
        scale = whole(parameters, "scale_bits", 1, 16)
        dtype = np.dtype(coded.dtype).newbyteorder("=")
        values = checked_values(sections.take(named_type(parameters, "values", SIGNED), coded.distinct), dtype)
        freqs = sections.take(np.dtype("<u2"), coded.distinct).astype(np.int64) + 1
        if not coded.count:
            return np.zeros(0, dtype=dtype)
        if int(freqs.sum()) != 1 << scale or int(freqs.max()) >= DENSE:
            raise ValueError(f"the frequencies have the sum {freqs.sum()}, expected {1 << scale}")
        table = rans.place_tables(freqs, values)
        parts = _parts(parameters.get("words"), coded.count, block, lanes, sections)
        if coded.bits != _bits(parts):
            raise ValueError(f"bits: the blocks have {_bits(parts)}, the record says {coded.bits}")
        decoded = each(lambda part: rans.decode(*part, *table, scale), parts)
        return decoded[0] if len(decoded) == 1 else np.concatenate(decoded)


def rans_bits(counts: IntArray, freqs: IntArray) -> float:
    """Σ counts · log2(M / f): the length of the code but for its states."""
    if not counts.size:
        return 0.0
    return float((counts * (np.log2(int(freqs.sum())) - np.log2(freqs))).sum())


def _bits(parts: Sequence[tuple[Any, ...]]) -> int:
    """Of states and words, the first two of each part."""
    return 8 * sum(states.nbytes + words.nbytes for states, words, *_ in parts)


def _parts(
    sizes: Any, count: int, block: int, lanes: int, sections: Sections
) -> list[tuple[rans.States, rans.Shorts, int]]:
    """(states, words, symbols) of each block."""
    blocks = -(-count // block)
    if not isinstance(sizes, list) or len(sizes) != blocks:
        raise ValueError(f"words: got {sizes!r:.80}, accepted: a list of {blocks} numbers of words")
    parts = []
    for number, size in enumerate(sizes):
        words = whole({"words": size}, "words")
        states = sections.take(np.dtype("<u4"), lanes)
        parts.append((states, sections.take(np.dtype("<u2"), words), min(block, count - number * block)))
    if sections.rest().size:
        raise ValueError(f"the payload has {sections.rest().size} bytes more than its code")
    return parts
