"""The coder `exp-golomb`: Exp-Golomb codewords (`exp_golomb.py`) of ranks, or of the numbers themselves."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.rounding import choice
from narrowgauge.priors.coding import exp_golomb
from narrowgauge.priors.coding.alphabet import Alphabet, IntArray, alphabet_of, checked_symbols
from narrowgauge.priors.coding.bitstream import Words
from narrowgauge.priors.coding.coder import register
from narrowgauge.priors.coding.exp_golomb import MAX_ORDER, exp_golomb_lengths
from narrowgauge.priors.coding.lanes import read_lanes, write_lanes
from narrowgauge.priors.coding.prefix import WIDTH, Chunks, Table, table_chunks
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
from narrowgauge.priors.coding.signed import to_signed, to_unsigned

_LONGEST_ENTRY = 48


class SymbolMap(StrEnum):
    """What is coded in the place of a symbol. rank: its place among the symbols by frequency, whose table is stored;
    signed: 2v - 1 of v > 0, else -2v; none: itself, which must not be negative."""

    RANK = "rank"
    SIGNED = "signed"
    NONE = "none"


@register("exp-golomb")
class ExpGolomb:
    """Exp-Golomb codes. order: k, 0 to 62; the one with the fewest bits if None. mapping: see `SymbolMap`."""

    name: ClassVar[str]

    def __init__(self, order: int | None = None, mapping: SymbolMap | str = SymbolMap.RANK) -> None:
        self.order = None if order is None else exp_golomb.check_order(order)
        self.mapping = choice(SymbolMap, mapping, "mapping")

    def encode(self, symbols: Any) -> Coded:
        """Codes integers. ValueError for those that the mapping does not have."""
        flat = checked_symbols(symbols)
        alphabet = alphabet_of(flat)
        numbers = _numbers(alphabet, self.mapping)
        order = exp_golomb.best_order(numbers, alphabet.counts) if self.order is None else self.order
        lengths = exp_golomb_lengths(numbers, order)
        bits = int((lengths * alphabet.counts).sum())
        lanes, code, parameters = write_lanes(flat.size, bits, _chunks(alphabet, numbers, lengths, order))
        parameters |= {"order": order, "mapping": self.mapping.value}
        tables = []
        if self.mapping is SymbolMap.RANK:
            tables = [narrowest(alphabet.values, SIGNED)]
            parameters["values"] = type_name(tables[0])
        return Coded(
            self.name, type_name(flat), flat.size, alphabet.counts.size, alphabet.entropy, bits, parameters,
            payload_of(*tables, lanes, code),
        )  # fmt: skip

    @classmethod
    def decode(cls, coded: Coded) -> NDArray[Any]:
        """The symbols. ValueError for a record that is damaged."""
        parameters, sections = coded.parameters, Sections(coded.payload)
        order = whole(parameters, "order", 0, MAX_ORDER)
        mapping = choice(SymbolMap, parameters.get("mapping", ""), "mapping")
        dtype = np.dtype(coded.dtype).newbyteorder("=")
        symbols: _Ranks | _Numbers
        if mapping is SymbolMap.RANK:
            stored = sections.take(named_type(parameters, "values", SIGNED), coded.distinct)
            symbols = _Ranks(checked_values(stored, dtype))
            longest = int(exp_golomb_lengths(np.array([max(coded.distinct - 1, 0)]), order)[0])
        else:
            symbols, longest = _Numbers(dtype, mapping is SymbolMap.SIGNED), WIDTH
        width = min(WIDTH, longest)
        numbers, lengths = exp_golomb.look_up(order, width)
        # Codewords that no symbol has are left to the escape, which says so.
        lengths[~symbols.has(numbers)] = 0
        table = Table(width, symbols.of(np.where(lengths > 0, numbers, 0)), lengths)

        def escape(words: Words, position: IntArray) -> tuple[NDArray[Any], IntArray]:
            longer, length = exp_golomb.read_number(words, position, order)
            if not symbols.has(longer).all():
                raise ValueError(f"the code is damaged: it has the number {longer.max()}, which is no symbol's")
            return symbols.of(longer), length

        return read_lanes(coded, sections, table, escape)


def _numbers(alphabet: Alphabet, mapping: SymbolMap) -> IntArray:
    """The number that is coded for each rank."""
    if mapping is SymbolMap.RANK:
        return np.arange(alphabet.values.size)
    if mapping is SymbolMap.SIGNED:
        return to_unsigned(alphabet.values)
    if alphabet.values.min(initial=0) < 0:
        raise ValueError(f"symbols: got {alphabet.values.min()}, accepted with the mapping 'none': integers >= 0")
    return alphabet.values


def _chunks(alphabet: Alphabet, numbers: IntArray, lengths: IntArray, order: int) -> Chunks:
    longest = int(lengths.max(initial=0))
    if alphabet.index.itemsize <= 2 and longest <= _LONGEST_ENTRY:
        codes, _ = exp_golomb.codewords(numbers, order)
        return table_chunks(alphabet.index, alphabet.spread(codes), alphabet.spread(lengths))
    return exp_golomb.number_chunks(alphabet.spread(numbers).astype(np.uint64)[alphabet.index], order, longest)


class _Ranks:
    """Symbols by their ranks."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def has(self, numbers: NDArray[Any]) -> NDArray[np.bool_]:
        return numbers < self._values.size

    def of(self, numbers: NDArray[Any]) -> NDArray[Any]:
        return (
            self._values[numbers.astype(np.int64)] if self._values.size else np.zeros(numbers.shape, self._values.dtype)
        )


class _Numbers:
    """Symbols that are their numbers, or the signed integers of these."""

    def __init__(self, dtype: np.dtype[Any], signed: bool) -> None:
        self._dtype, self._signed, self._limits = dtype, signed, np.iinfo(dtype)

    def has(self, numbers: NDArray[Any]) -> NDArray[np.bool_]:
        values = self._values(numbers)
        return (values >= self._limits.min) & (values <= min(self._limits.max, (1 << 63) - 1))

    def of(self, numbers: NDArray[Any]) -> NDArray[Any]:
        return self._values(numbers).astype(self._dtype)

    def _values(self, numbers: NDArray[Any]) -> IntArray:
        wide = numbers.astype(np.int64)
        return to_signed(wide) if self._signed else wide
