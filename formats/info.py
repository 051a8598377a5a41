"""`finfo(name)`: the derived facts of a format as one record, for tables and JSON."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from narrowgauge.formats.block import BlockFormat
from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.format import MOST_LISTED_BITS, Format
from narrowgauge.formats.registry import AnyFormat, get


@dataclass(frozen=True)
class FormatInfo:
    """Facts of one format; of block formats those of the element, with storage per value and the scale."""

    name: str
    family: str
    bits: float
    max: float
    min: float
    smallest_normal: float
    smallest_subnormal: float
    epsilon: float
    finite_codes: int
    has_inf: bool
    has_nan: bool
    scale: str


def finfo(name: str | AnyFormat) -> FormatInfo:
    """Derived facts of the format called `name`."""
    fmt = get(name)
    if isinstance(fmt, BlockFormat):
        outer = " × fp32 per tensor" if fmt.two_level else ""
        shared = fmt.block_size if fmt.block_rows == 1 else fmt.granularity
        micro = f" + {fmt.micro_bits} bit per {fmt.micro_size}" if fmt.micro_size else ""
        scale = f"{fmt.scale_format.name} per {shared}{micro}{outer}"
        return _describe(fmt.element, fmt.name, "block", fmt.bits_per_value, scale)
    return _describe(fmt, fmt.name, fmt.family, float(fmt.bits), "")


def _describe(fmt: Format, name: str, family: str, bits: float, scale: str) -> FormatInfo:
    if isinstance(fmt, FloatFormat):
        finite = fmt.finite_codes
    else:
        finite = int(np.isfinite(fmt.values()).sum()) if fmt.bits <= MOST_LISTED_BITS else 2**fmt.bits
    return FormatInfo(
        name=name,
        family=family,
        bits=bits,
        max=fmt.max,
        min=fmt.min,
        smallest_normal=fmt.smallest_normal,
        smallest_subnormal=fmt.smallest_subnormal,
        epsilon=fmt.epsilon,
        finite_codes=finite,
        has_inf=fmt.has_inf,
        has_nan=fmt.has_nan,
        scale=scale,
    )
