"""Minifloats by name: `e3m2b3` says all parameters of a `FloatFormat`, and one without a name is called so.

    [u]e<exponent bits>m<mantissa bits>b<bias>[i][n<NaN codes>][z][o|d][c]

u no sign, i infinities, z NaN at negative zero, o no subnormals and no zero, d no subnormals but a zero, c
non-saturating overflow clamps.
"""

from __future__ import annotations

import re

from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.registry import register_family

_PARAMETERS = r"(u)?e(\d+)m(\d+)b(-?\d+)(i)?(?:n(\d+))?(z)?([od])?(c)?"


def _from_parameters(match: re.Match[str]) -> FloatFormat:
    """The format whose name `_PARAMETERS` matched; ValueError for parameters that exclude one another."""
    unsigned, exponent_bits, mantissa_bits, bias, infinity, nans, slot, bottom, clamps = match.groups()
    return FloatFormat(
        name=match[0],
        exponent_bits=int(exponent_bits),
        mantissa_bits=int(mantissa_bits),
        bias=int(bias),
        is_signed=unsigned is None,
        subnormals=bottom is None,
        zero_at_bottom=bottom == "d",
        has_infinity=infinity is not None,
        nan_codes=int(nans or 0),
        nan_at_negative_zero=slot is not None,
        overflow_to_nan=clamps is None,
    )


register_family(
    _PARAMETERS,
    _from_parameters,
    "e3m2b3",
    "minifloat: exponent bits, mantissa bits, bias; `u…` unsigned, then `i` infinities, `n1` NaN codes, `z` NaN at -0, "
    "`d` or `o` no subnormals (with or without a zero), `c` overflow clamps",
)
