"""The coder `huffman`: canonical Huffman codewords of limited length (`huffman.py`)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from narrowgauge.priors.coding import huffman
from narrowgauge.priors.coding.alphabet import DENSE, alphabet_of, checked_symbols
from narrowgauge.priors.coding.coder import register
from narrowgauge.priors.coding.lanes import read_lanes, write_lanes
from narrowgauge.priors.coding.prefix import WIDTH, Table, table_chunks
from narrowgauge.priors.coding.record import (
    SIGNED,
    Coded,
    Sections,
    checked_values,
    named_type,
    narrowest,
    payload_of,
    type_name,
)


@register("huffman")
class Huffman:
    """Huffman codes of at most 16 bits, for at most 65536 distinct symbols."""

    name: ClassVar[str]

    def encode(self, symbols: Any) -> Coded:
        """Codes integers. ValueError for more distinct ones."""
        flat = checked_symbols(symbols)
        alphabet = alphabet_of(flat)
        if alphabet.counts.size > DENSE:
            raise ValueError(
                f"symbols: got {alphabet.counts.size} distinct ones, accepted: {DENSE} (exp-golomb takes more)"
            )
        lengths = huffman.huffman_lengths(alphabet.counts, WIDTH)
        codes = huffman.canonical_codes(lengths)
        bits = int((lengths * alphabet.counts).sum())
        chunks = table_chunks(alphabet.index, alphabet.spread(codes), alphabet.spread(lengths))
        lanes, code, parameters = write_lanes(flat.size, bits, chunks)
        values = narrowest(alphabet.values, SIGNED)
        parameters["values"] = type_name(values)
        parameters["lengths"] = [int(count) for count in np.bincount(lengths)]
        return Coded(
            self.name, type_name(flat), flat.size, alphabet.counts.size, alphabet.entropy, bits, parameters,
            payload_of(values, lanes, code),
        )  # fmt: skip

    @classmethod
    def decode(cls, coded: Coded) -> NDArray[Any]:
        """The symbols. ValueError for a record that is damaged."""
        sections = Sections(coded.payload)
        dtype = np.dtype(coded.dtype).newbyteorder("=")
        values = checked_values(sections.take(named_type(coded.parameters, "values", SIGNED), coded.distinct), dtype)
        if not coded.count:
            return np.zeros(0, dtype=dtype)
        table = Table(*huffman.look_up(_per_length(coded.parameters.get("lengths")), values))
        return read_lanes(coded, sections, table)


def _per_length(stored: Any) -> NDArray[np.int64]:
    if (
        not isinstance(stored, list)
        or len(stored) > WIDTH + 1
        or any(isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= DENSE for number in stored)
    ):
        raise ValueError(f"lengths: got {stored!r:.80}, accepted: a list of the numbers of codewords of 0 … 16 bits")
    return np.array(stored, dtype=np.int64)
