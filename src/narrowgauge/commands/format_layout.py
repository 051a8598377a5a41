"""The bits of a format and its special codes, as text."""

from __future__ import annotations

import numpy as np

from narrowgauge.commands.output import number
from narrowgauge.formats import BlockFormat, FloatFormat, Format, IntFormat

_MARKED = 16
"""Codes of formats up to so many bits are looked at one by one."""


def bit_fields(fmt: Format) -> list[tuple[str, int]]:
    """(letter, width) of the fields of a code from the highest bit down: S sign, E exponent, M mantissa, I integer, F
    fraction, C a number that a table or a rule explains."""
    if isinstance(fmt, FloatFormat):
        fields = [("S", int(fmt.signed)), ("E", fmt.exponent_bits), ("M", fmt.mantissa_bits)]
    elif isinstance(fmt, IntFormat):
        fraction = min(fmt.fraction_bits, fmt.width - int(fmt.signed))
        fields = [("S", int(fmt.signed)), ("I", fmt.width - int(fmt.signed) - fraction), ("F", fraction)]
    else:
        fields = [("C", fmt.bits)]
    return [(letter, width) for letter, width in fields if width]


def bit_diagram(fmt: Format) -> str:
    """Two lines: the numbers of the bits, and under them the letters of their fields."""
    width = 3 if fmt.bits > 10 else 2
    numbers, letters, bit = [], [], fmt.bits
    for letter, count in bit_fields(fmt):
        numbers.append("".join(f"{i:>{width}}" for i in range(bit - 1, bit - count - 1, -1)))
        letters.append(f"{letter:>{width}}" * count)
        bit -= count
    return f"  bit {' |'.join(numbers)}\n      {' |'.join(letters)}"


def block_diagram(fmt: BlockFormat) -> str:
    """How the codes of a block lie beside one another."""
    rows, cols = fmt.tile
    count = f"{rows or 'all'} x {cols or 'all'}" if rows != 1 else f"{cols}"
    parts = [f"[scale: {fmt.scale_format.bits} bits, {fmt.scale_format.name}]"]
    if fmt.micro_size:
        parts.append(f"[{fmt.micro_count} x {fmt.micro_bits} bit: exponents of every {fmt.micro_size} values]")
    parts.append(f"[{count} elements of {fmt.element.bits} bits, {fmt.element.name}]")
    return "  " + " ".join(parts) + ("  [float32 scale of the tensor]" if fmt.two_level else "")


def special_codes(fmt: Format) -> list[tuple[str, str, str]]:
    """(code in hexadecimal, value, what it is) of the codes that mark the format's ends and exceptions."""
    if fmt.bits > _MARKED:
        return []
    codes, values = fmt.all_codes(), fmt.values()
    marks: dict[int, str] = {}

    def mark(selected: np.ndarray, meaning: str) -> None:
        for index in np.flatnonzero(selected)[:1]:
            marks.setdefault(int(index), meaning)

    mark((values == 0) & ~np.signbit(values), "zero")
    mark((values == 0) & np.signbit(values), "negative zero")
    mark(values == fmt.smallest_subnormal, "smallest positive")
    mark(values == fmt.smallest_normal, "smallest normal")
    mark(values == 1.0, "one")
    mark(values == fmt.max, "largest")
    mark(values == fmt.min, "most negative" if fmt.min < 0 else "smallest")
    mark(values == np.inf, "infinity")
    mark(values == -np.inf, "negative infinity")
    nan = np.isnan(values)
    if fmt.nan_code is not None:
        count = int(nan.sum())
        marks[fmt.nan_code] = "NaN" if count == 1 else f"NaN, the one that encode gives; {count} codes are NaN"
    if isinstance(fmt, IntFormat) and fmt.restricted and fmt.signed:
        mark(values < fmt.min, "decodes, but encode never gives it")
    digits = -(-fmt.bits // 4)
    mask = 2**fmt.bits - 1
    return [
        (f"0x{int(codes[index]) & mask:0{digits}X}", number(float(values[index]), 8), meaning)
        for index, meaning in sorted(marks.items())
    ]
