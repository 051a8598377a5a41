"""Texts about number formats; `docs/formats.md` and `narrowgauge formats` print the same ones."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from narrowgauge import formats
from narrowgauge.commands.output import number
from narrowgauge.formats import BlockFormat, CodebookFormat, FloatFormat, Format, FormatInfo, IntFormat

COLUMNS = ("<name", "<family", "bits", "max", "smallest", "epsilon", "finite codes", "inf", "NaN", "<scale")
NUM_SHOWN = 16
MAX_LISTED_BITS = 8
LINE_WIDTH = 64
_DENSITIES = ((0, " "), (1, "|"), (2, "2"), (3, "3"), (5, "+"), (9, "#"))
"""How the number line shows that at least so many values share a column."""

PAGE_START = """\
# Formats

Every registered format, printed by `narrowgauge formats --markdown > docs/formats.md`; a test compares this page with
the registry. All columns are derived from the formats' definitions. `narrowgauge formats NAME` shows one of them with
its layout and its values, `narrowgauge formats NAME --json` the value of every code.
"""
PAGE_END = """
- **bits**: per value; block formats include their share of the block's scale.
- **max**, **smallest** (positive) and **epsilon** (distance from 1 to the next value) of a block format are those of
  its element, before the scale.
- **finite codes**: how many codes are numbers; of `e4m3fn`'s 256, two are NaN.

By rule, beside the registered names: `q<m>.<n>` (fixed point, m integer and n fraction bits, and a sign),
`rf8b<bias>` (RF8 with another exponent bias) and `binary<k>p<p>[s|u][e|f]` (IEEE P3109: k bits, precision p, signed or
unsigned, extended with infinities or finite). Aliases: `mxfp8` is `mxfp8_e4m3`, `mxfp6` is `mxfp6_e2m3`; `float16`,
`half` and `bfloat16` are `fp16` and `bf16`.

## Schemes

A scheme says how a tensor is stored in a format, in one line: `format[/granularity][:rule][+sr]`.

| part | accepted | meaning |
|---|---|---|
| granularity | `tensor` (default), `row`, `col`, `RxC` | which values share a scale |
| rule | `amax` (default), `floor`, `ceil`, `rceil`, `even`, `pow2`, `static=S` | how their amax becomes the scale |
| option | `+sr` | stochastic rounding, from an explicit seed |

Rows are everything but the last axis; groups at ragged edges are smaller and have their own scale. The rules are
defined in [the numerics contract](numerics-contract.md#scales).

Examples: `e4m3fn`, `e4m3fn/row`, `e4m3fn/1x128`, `e4m3fn/128x128:pow2`, `int8/32x32+sr`, `rf8/row`. Block formats bring
their own granularity: `mxfp8`, `mxfp4:floor`, `nvfp4+sr`. The kernels quantise to floats, integers and RF8 of
at most 8 bits, alone or in blocks; 16-bit formats and the codebooks `nf4`, `dynamic8` and `udynamic8` encode and decode
in `narrowgauge.formats`.
"""


def table_row(info: FormatInfo) -> tuple[str, ...]:
    """The cells of one format, in the order of `COLUMNS`."""
    return (
        info.name,
        info.family,
        f"{info.bits:g}",
        number(info.max),
        number(info.smallest_subnormal),
        number(info.epsilon),
        str(info.finite_codes),
        _yes(info.has_inf),
        _yes(info.has_nan),
        info.scale or "-",
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def element_of(name: str) -> Format:
    """The format of one code: the format called `name`, or a block format's element."""
    fmt: Format | BlockFormat = formats.get(name)
    return fmt.element if isinstance(fmt, BlockFormat) else fmt


def layout(name: str) -> str:
    """What the bits of a code mean, in a sentence."""
    fmt: Format | BlockFormat = formats.get(name)
    if isinstance(fmt, BlockFormat):
        outer = ", and the whole tensor a float32" if fmt.two_level else ""
        scale = f"{fmt.block_size} values share one {fmt.scale_format.name} scale{outer}"
        return f"blocks of {fmt.element.name} ({scale}; rule {fmt.rule})"
    if isinstance(fmt, FloatFormat):
        sign = "1 sign, " if fmt.signed else "no sign, "
        return f"{sign}{fmt.exponent_bits} exponent and {fmt.mantissa_bits} mantissa bits, bias {fmt.bias}"
    if isinstance(fmt, IntFormat):
        kind = "two's complement" if fmt.signed else "unsigned"
        point = f", {fmt.fraction_bits} of them behind the point" if fmt.fraction_bits else ""
        return f"{kind}, {fmt.width} bits{point}; codes {fmt.min_code} to {fmt.max_code}"
    if isinstance(fmt, CodebookFormat):
        return f"a table of {2**fmt.bits} values"
    return f"codes of {fmt.bits} bits"


def facts(name: str) -> dict[str, str]:
    """Fact → text."""
    info = formats.finfo(name)
    normal = info.smallest_normal
    texts = {
        "bits per value": f"{info.bits:g}",
        "largest": f"{number(info.max, 8)}{_power(info.max)}",
        "most negative": number(info.min, 8),
        "smallest normal": f"{number(normal, 8)}{_power(normal)}",
        "smallest positive": f"{number(info.smallest_subnormal, 8)}{_power(info.smallest_subnormal)}",
        "epsilon": f"{number(info.epsilon, 8)}{_power(info.epsilon)}",
        "finite codes": str(info.finite_codes),
        "infinity": _yes(info.has_inf),
        "NaN": _yes(info.has_nan),
    }
    return texts | ({"scale": info.scale} if info.scale else {})


def _power(value: float) -> str:
    """The value as a power of two, where it is one."""
    mantissa, exponent = math.frexp(value)
    return f" = 2^{exponent - 1}" if mantissa == 0.5 and exponent != 1 else ""


def positive_values(name: str) -> list[float] | None:
    """The positive finite values in order; None above 8 bits, where there are too many to look at."""
    element = element_of(name)
    if element.bits > MAX_LISTED_BITS:
        return None
    values = element.values()
    return [float(value) for value in np.unique(values[np.isfinite(values) & (values > 0)])]


def number_line(levels: list[float]) -> str:
    """Two lines of text from 0 to the largest value: how many values lie in each column, and the axis."""
    largest = levels[-1]
    columns = np.minimum((np.array([0.0, *levels]) / largest * (LINE_WIDTH - 1)).astype(int), LINE_WIDTH - 1)
    counts = np.bincount(columns, minlength=LINE_WIDTH)
    marks = "".join([mark for bound, mark in _DENSITIES if count >= bound][-1] for count in counts)
    axis = f"0{number(largest, 6):>{LINE_WIDTH - 1}}"
    return f"  {marks}\n  {axis}\n  (| one value in this column, 2 and 3 so many, + at least 5, # at least 9)"


def describe(name: str) -> dict[str, Any]:
    """`finfo` as plain data, with the layout and, up to 8 bits, the value of every code (text if it is not finite)."""
    element = element_of(name)
    listed = element.values().tolist() if element.bits <= MAX_LISTED_BITS else None
    values = None if listed is None else [value if math.isfinite(value) else str(value) for value in listed]
    return {**asdict(formats.finfo(name)), "layout": layout(name), "values": values}


def markdown() -> str:
    """docs/formats.md, whole."""
    heads = [column.removeprefix("<") for column in COLUMNS]
    rules = ["---" if column.startswith("<") else "---:" for column in COLUMNS]
    lines = [PAGE_START, "| " + " | ".join(heads) + " |", "|" + "|".join(rules) + "|"]
    for name in formats.names():
        cells = table_row(formats.finfo(name))
        lines.append("| " + " | ".join((f"`{cells[0]}`", *cells[1:])) + " |")
    return "\n".join([*lines, PAGE_END])
