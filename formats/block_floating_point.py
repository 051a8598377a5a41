"""Block floating point: integers that share the exponent of their group's largest magnitude.

    E = floor(log2 amax)        value = q · 2^(E - (m - 2)),  q an integer of m bits, sign included, |q| <= 2^(m-1) - 1

A mantissa has no hidden bit; what would round to 2^(m-1) is clipped. `bfp<m>g<group>[e<bits>]` names the format of one
row's groups, `bfp<m>g<rows>x<cols>[e<bits>]` that of tiles and `bfp<m>gtensor[e<bits>]` that of one exponent for a
tensor; the exponent has 8 bits unless said.

| preset            | mantissa with its sign | group  | exponent          | source                                  |
|-------------------|------------------------|--------|-------------------|-----------------------------------------|
| msfp11 … msfp16   | 3 … 8 bits             | 16     | 8 bits            | Darvish Rouhani et al., NeurIPS 2020    |
| hbfp4, 6, 8, 12   | 4, 6, 8, 12 bits       | 24x24  | 10 bits           | arXiv 1804.01526, 2211.10737            |
| mx9, mx6, mx4     | 8, 5, 3 bits           | 16     | 8, one for a pair | arXiv 2302.08007 (also `smx9`, …)       |
| dfp16             | 16 bits                | tensor | 8 bits            | Das et al., arXiv 1802.00930            |
"""

from __future__ import annotations

import re

from narrowgauge.formats.block import BlockFormat, power_of_two_scale
from narrowgauge.formats.integers import IntFormat
from narrowgauge.formats.registry import register_family
from narrowgauge.formats.rules import ScaleRule
from narrowgauge.formats.tiles import Tile, tile_from_text


def bfp(
    mantissa_bits: int,
    group: int | Tile,
    exponent_bits: int = 8,
    *,
    name: str = "",
    micro_size: int = 0,
    micro_bits: int = 0,
) -> BlockFormat:
    """BFP(m, group, e): mantissa_bits 2 to 16, sign included; group: values of a row, or (rows, cols), None for all.

    micro_size, micro_bits: further exponent bits shared by so many values (SMX). ValueError for other parameters.
    """
    tile: Tile = (1, group) if isinstance(group, int) else group
    if not 2 <= mantissa_bits <= 16:
        raise ValueError(f"mantissa_bits: got {mantissa_bits}, accepted: 2 to 16, the sign included")
    element = IntFormat(width=mantissa_bits, fraction_bits=mantissa_bits - 2)
    return BlockFormat(
        name=name or _name(mantissa_bits, tile, exponent_bits, micro_size, micro_bits),
        element=element,
        scale_format=power_of_two_scale(exponent_bits),
        block_rows=tile[0],
        block_size=tile[1],
        rule=ScaleRule.FLOOR,
        micro_size=micro_size,
        micro_bits=micro_bits,
    )


def _name(mantissa_bits: int, tile: Tile, exponent_bits: int, micro_size: int, micro_bits: int) -> str:
    rows, cols = tile
    group = (
        "tensor" if tile == (None, None) else str(cols) if rows == 1 and cols else f"{rows or 'all'}x{cols or 'all'}"
    )
    exponent = "" if exponent_bits == 8 else f"e{exponent_bits}"
    return f"bfp{mantissa_bits}g{group}{exponent}" + (f"p{micro_size}b{micro_bits}" if micro_size else "")


def _from_name(match: re.Match[str]) -> BlockFormat:
    mantissa, group, exponent, micro_size, micro_bits = match.groups()
    tile: Tile = (1, int(group)) if group.isdigit() else tile_from_text(group)
    return bfp(
        int(mantissa),
        tile,
        int(exponent or 8),
        name=match[0],
        micro_size=int(micro_size or 0),
        micro_bits=int(micro_bits or 0),
    )


register_family(
    r"bfp(\d+)g(\d+|tensor|(?:\d+|all)x(?:\d+|all))(?:e(\d+))?(?:p(\d+)b(\d+))?",
    _from_name,
    "bfp6g16",
    "block floating point: mantissa bits with their sign, group (`16`, `24x24`, `tensor`), `e10` for the exponent's "
    "bits, `p2b1` for further exponent bits shared by so many values",
)
