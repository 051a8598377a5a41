"""Texts about number formats; `docs/formats.md` and `narrowgauge formats` print the same ones."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from narrowgauge import formats
from narrowgauge.commands.format_layout import bit_fields, special_codes
from narrowgauge.commands.format_sqnr import sqnr_table
from narrowgauge.commands.output import number
from narrowgauge.formats import BlockFormat, Format, FormatInfo
from narrowgauge.formats.hardware import native_support

COLUMNS = ("<name", "<family", "bits", "max", "smallest", "epsilon", "finite codes", "inf", "NaN", "<scale")
NUM_SHOWN = 16
MAX_LISTED_BITS = 8
LINE_WIDTH = 64
MOST_OCTAVES = 24
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

## Names by rule

Beside the registered names, these are made when they are asked for:

{families}

Aliases: `mxfp8` is `mxfp8_e4m3`, `mxfp6` is `mxfp6_e2m3`; `float32`, `float16`, `half` and `bfloat16` are `fp32`,
`fp16`, `fp16` and `bf16`; `smx9`, `smx6` and `smx4` are `mx9`, `mx6` and `mx4`.

## Formats of your own

```python
from narrowgauge.formats import BlockFormat, CodebookFormat, FloatFormat, IntFormat, Scheme, register

fmt = FloatFormat(exponent_bits=3, mantissa_bits=2)  # called e3m2b3; bias, NaN, infinities, subnormals as you like
book = CodebookFormat.from_values([-1, -0.3, 0, 0.3, 1], name="five")
scheme = Scheme(book, (1, 128))  # "five/1x128"
register(book)  # to have it listed, and known by name from the start
```

They work wherever a registered format does: `quantize`, matrix products, recipes, optimizer states, the numerics
harness; on the CPU and in Triton, by table where bit arithmetic does not serve.

## Schemes

A scheme says how a tensor is stored in a format, in one line: `format[/granularity][:rule][+option]*`.

| part | accepted | meaning |
|---|---|---|
| granularity | `tensor` (default), `row`, `col`, `RxC` | which values share a scale |
| rule | `amax` (or `real`), `floor`, `ceil`, `rceil`, `even`, `pow2`, `mse`, `sawb` | how they become the scale |
| rule | `percentile=P`, `static=S` | the same, with a number |
| option | `+sr` | stochastic rounding, from an explicit seed |
| option | `+ftz` | subnormal results become zero |

Without a rule a scheme has its format's own: `amax` for most, `floor` or `pow2` for those that are defined with a
power of two. Rows are everything but the last axis; groups at ragged edges are smaller and have their own scale. The
rules are defined in [the numerics contract](numerics-contract.md#scales).

Examples: `e4m3fn`, `e4m3fn/row`, `e4m3fn/1x128`, `e4m3fn/128x128:pow2`, `int8/32x32+sr`, `int4/1x64:mse`, `rf8/row`,
`nf4/1x64`. Block formats bring their own granularity: `mxfp8`, `mxfp4:floor`, `nvfp4+sr`, `nvfp4:rceil` (scales
rounded up), `nvfp4_2d`, `msfp12`, `hbfp8`, `mx9`. The kernels quantise to formats of at most 8 bits; wider ones encode
and decode in `narrowgauge.formats`.
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
        shared = fmt.granularity if fmt.block_rows != 1 else fmt.block_size
        scale = f"{shared} values share one {fmt.scale_format.name} scale{outer}"
        if fmt.micro_size:
            scale += f", and {fmt.micro_size} of them {fmt.micro_bits} further exponent bit"
        return f"blocks of {fmt.element.name} ({scale}; rule {fmt.rule})"
    return fmt.layout


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
    """Lines of text from 0 to the largest value: how many values lie in each column, and the axis; then how many each
    power of two has."""
    largest = levels[-1]
    columns = np.minimum((np.array([0.0, *levels]) / largest * (LINE_WIDTH - 1)).astype(int), LINE_WIDTH - 1)
    counts = np.bincount(columns, minlength=LINE_WIDTH)
    marks = "".join([mark for bound, mark in _DENSITIES if count >= bound][-1] for count in counts)
    axis = f"0{number(largest, 6):>{LINE_WIDTH - 1}}"
    legend = "(| one value in this column, 2 and 3 so many, + at least 5, # at least 9)"
    return f"  {marks}\n  {axis}\n  {legend}\n\n{octave_line(levels)}"


def octave_line(levels: list[float]) -> str:
    """How many values lie between each power of two and the next; of many powers, every so many together."""
    exponents = np.frexp(np.array(levels))[1] - 1
    first, last = int(exponents[0]), int(exponents[-1])
    step = -(-(last - first + 1) // MOST_OCTAVES)
    counts = np.bincount((exponents - first) // step)
    width = max(len(str(int(counts.max()))), *(len(str(e)) for e in range(first, last + 1, step))) + 1
    heads = "".join(f"{first + i * step:>{width}}" for i in range(len(counts)))
    cells = "".join(f"{count:>{width}}" for count in counts)
    each = "from 2^e" if step == 1 else f"from 2^e on, {step} powers of two together"
    return f"  e      {heads}\n  values {cells}   ({each})"


def describe(name: str) -> dict[str, Any]:
    """`finfo` as plain data, with the layout, special codes, SQNR on known distributions, hardware that has the format
    and, up to 8 bits, the value of every code (text if it is not finite)."""
    chosen, element = formats.get(name), element_of(name)
    listed = element.values().tolist() if element.bits <= MAX_LISTED_BITS else None
    values = None if listed is None else [value if math.isfinite(value) else str(value) for value in listed]
    codes = [dict(zip(("code", "value", "meaning"), row, strict=True)) for row in special_codes(element)]
    return {
        **asdict(formats.finfo(name)),
        "layout": layout(name),
        "fields": [list(part) for part in bit_fields(element)],
        "special_codes": codes,
        "sqnr_db": sqnr_table(chosen),
        "hardware": [support._asdict() for support in native_support(chosen)],
        "values": values,
    }


def markdown() -> str:
    """docs/formats.md, whole."""
    heads = [column.removeprefix("<") for column in COLUMNS]
    rules = ["---" if column.startswith("<") else "---:" for column in COLUMNS]
    lines = [PAGE_START, "| " + " | ".join(heads) + " |", "|" + "|".join(rules) + "|"]
    for name in formats.names():
        cells = table_row(formats.finfo(name))
        lines.append("| " + " | ".join((f"`{cells[0]}`", *cells[1:])) + " |")
    rules = [f"- `{family.example}`: {family.meaning}." for family in formats.families()]
    return "\n".join([*lines, PAGE_END.replace("{families}", "\n".join(rules))])
