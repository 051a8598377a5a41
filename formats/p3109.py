"""IEEE P3109 (interim report v4.0, 26 June 2026): Binary⟨K⟩p⟨P⟩⟨s|u⟩⟨e|f⟩.

K bits, precision P (P - 1 stored mantissa bits), signed or unsigned, extended (with infinities) or finite
domain. Bias 2^(K-P-1) signed, 2^(K-P) unsigned: one more than IEEE 754. One zero, one NaN (the slot of -0
when signed, the top code when unsigned), infinities just below. Non-saturating overflow clamps in a finite
domain (v4.0; earlier drafts and gfloat 0.5 give NaN).
"""

from __future__ import annotations

import re

from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.registry import register_family


def p3109(bits: int, precision: int, signed: bool = True, extended: bool = True) -> FloatFormat:
    """The P3109 format of these four parameters; 3 <= bits <= 16, 1 <= precision < bits (<= bits when
    unsigned). ValueError for other parameters and for the few formats whose values exceed float64."""
    exponent_bits = bits - precision + (0 if signed else 1)
    if not 3 <= bits <= 16 or precision < 1 or exponent_bits < 1:
        raise ValueError(
            f"p3109: bits 3..16 and precision 1..bits - 1 (1..bits when unsigned), "
            f"got bits={bits}, precision={precision}"
        )
    suffix = ("s" if signed else "u") + ("e" if extended else "f")
    return FloatFormat(
        name=f"binary{bits}p{precision}{suffix}",
        exponent_bits=exponent_bits,
        mantissa_bits=precision - 1,
        bias=2 ** (exponent_bits - 1),
        is_signed=signed,
        has_infinity=extended,
        nan_at_negative_zero=signed,
        nan_codes=0 if signed else 1,
        overflow_to_nan=False,
    )


def _from_name(match: re.Match[str]) -> FloatFormat:
    """Without a suffix `se`, as in the report."""
    return p3109(int(match[1]), int(match[2]), signed=match[3] != "u", extended=match[4] != "f")


register_family(
    r"binary(\d+)p(\d+)(s|u)?(e|f)?",
    _from_name,
    "binary6p3se",
    "IEEE P3109: bits, precision, signed or unsigned, extended with infinities or finite",
)
