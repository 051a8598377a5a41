"""The registered formats. One line adds one; the table in `docs/formats.md` is generated from here."""

from __future__ import annotations

import re

from narrowgauge.formats.block import BlockFormat, power_of_two_scale
from narrowgauge.formats.block_floating_point import bfp
from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.integers import IntFormat, fixed_point
from narrowgauge.formats.normal_float import normal_float
from narrowgauge.formats.p3109 import p3109
from narrowgauge.formats.registry import get, register, register_family
from narrowgauge.formats.rf8 import rf8
from narrowgauge.formats.scaling import ScaleRule

# NF4: the table that bitsandbytes ships. Exact normal quantiles differ from it by about 1e-7, so it is data.
NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def _ieee(name: str, exponent_bits: int, mantissa_bits: int, *aliases: str) -> None:
    register(
        FloatFormat(
            name=name,
            exponent_bits=exponent_bits,
            mantissa_bits=mantissa_bits,
            bias=2 ** (exponent_bits - 1) - 1,
            has_infinity=True,
            nan_codes=2**mantissa_bits - 1,
        ),
        *aliases,
    )


def _finite(name: str, exponent_bits: int, mantissa_bits: int, bias: int, *, nan_codes: int = 0) -> None:
    register(
        FloatFormat(
            name=name,
            exponent_bits=exponent_bits,
            mantissa_bits=mantissa_bits,
            bias=bias,
            nan_codes=nan_codes,
        )
    )


def _fnuz(name: str, exponent_bits: int, mantissa_bits: int, bias: int) -> None:
    register(
        FloatFormat(
            name=name,
            exponent_bits=exponent_bits,
            mantissa_bits=mantissa_bits,
            bias=bias,
            nan_at_negative_zero=True,
        )
    )


_finite("e4m3fn", 4, 3, 7, nan_codes=1)
_ieee("e5m2", 5, 2)
_ieee("e4m3", 4, 3)
_ieee("e3m4", 3, 4)
_fnuz("e4m3fnuz", 4, 3, 8)
_fnuz("e5m2fnuz", 5, 2, 16)
_fnuz("e4m3b11fnuz", 4, 3, 11)
register(power_of_two_scale(8))  # e8m0fnu
_finite("e2m3fn", 2, 3, 1)
_finite("e3m2fn", 3, 2, 3)
_finite("e2m1fn", 2, 1, 1)
_finite("e1m2", 1, 2, 1)
# Intel's FP8 toolkit calls this E3M4 too; ml_dtypes' float8_e3m4 is the one with infinities above.
_finite("e3m4fn", 3, 4, 3, nan_codes=1)
# NVFP4's block scale: e4m3fn without its sign.
register(FloatFormat(name="ue4m3fn", exponent_bits=4, mantissa_bits=3, is_signed=False, nan_codes=1))
_ieee("fp16", 5, 10, "float16", "half")
_ieee("bf16", 8, 7, "bfloat16")
_ieee("e5m6", 5, 6)
# IBM's 1-6-9 (Agrawal et al., ARITH 2019): no subnormals, one code for NaN and infinity.
register(
    FloatFormat(name="dlfloat16", exponent_bits=6, mantissa_bits=9, subnormals=False, zero_at_bottom=True, nan_codes=1)
)
_ieee("tf32", 8, 10)
_ieee("fp32", 8, 23, "float32")
register(rf8())
for _width in range(2, 17):
    register(IntFormat(width=_width))
for _width in (2, 4, 8, 16):
    register(IntFormat(width=_width, is_signed=False))
    register(IntFormat(width=_width, restricted=False))


def _integer(match: re.Match[str]) -> IntFormat:
    unsigned, width, fraction_bits, full = match.groups()
    return IntFormat(
        name=match[0],
        width=int(width),
        fraction_bits=int(fraction_bits or 0),
        is_signed=unsigned is None,
        restricted=full is None,
    )


register_family(
    r"(u)?int(\d+)(?:f(\d+))?(_full)?",
    _integer,
    "int6",
    "integer of so many bits, `int8f6` with 6 of them behind the point; `int6_full` also encodes to its most negative "
    "code, `uint6` is unsigned",
)
register_family(
    r"q(\d+)\.(\d+)",
    lambda match: fixed_point(int(match[1]), int(match[2])),
    "q3.4",
    "fixed point: integer and fraction bits, and a sign",
)
register(CodebookFormat(name="nf4", table=NF4_LEVELS))
register(CodebookFormat.from_values(normal_float(3), "nf3"))
for _precision in range(1, 8):
    for _extended in (True, False):
        register(p3109(8, _precision, extended=_extended))
register(p3109(8, 1, signed=False, extended=False))
register(p3109(6, 3))
register(p3109(6, 4))
register(p3109(4, 2, extended=False))


def _mx(name: str, element: str, rule: ScaleRule, *aliases: str) -> None:
    register(
        BlockFormat(name=name, element=get(element), scale_format=get("e8m0fnu"), block_size=32, rule=rule),
        *aliases,
    )


_MXINT8_ELEMENT = IntFormat(name="mxint8_element", width=8, fraction_bits=6)

_mx("mxfp8_e4m3", "e4m3fn", ScaleRule.RCEIL, "mxfp8")
_mx("mxfp8_e5m2", "e5m2", ScaleRule.RCEIL)
_mx("mxfp6_e2m3", "e2m3fn", ScaleRule.RCEIL, "mxfp6")
_mx("mxfp6_e3m2", "e3m2fn", ScaleRule.RCEIL)
_mx("mxfp4", "e2m1fn", ScaleRule.RCEIL)
register(
    BlockFormat(
        name="mxint8",
        element=_MXINT8_ELEMENT,
        scale_format=get("e8m0fnu"),
        block_size=32,
        rule=ScaleRule.RCEIL,
    )
)
for _name, _rows in (("nvfp4", 1), ("nvfp4_2d", 16)):
    register(
        BlockFormat(
            name=_name,
            element=get("e2m1fn"),
            scale_format=get("e4m3fn"),
            block_size=16,
            block_rows=_rows,
            rule=ScaleRule.AMAX,
            two_level=True,
        )
    )
for _total in range(11, 17):
    register(bfp(_total - 8, 16, name=f"msfp{_total}"))
for _mantissa in (4, 6, 8, 12):
    register(bfp(_mantissa, (24, 24), 10, name=f"hbfp{_mantissa}"))
for _total, _mantissa in ((9, 8), (6, 5), (4, 3)):
    register(bfp(_mantissa, 16, name=f"mx{_total}", micro_size=2, micro_bits=1), f"smx{_total}")
register(bfp(16, (None, None), name="dfp16"))
