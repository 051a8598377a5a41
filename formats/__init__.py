"""Number formats, bit by bit: frozen data, exact encode and decode, scale rules and schemes. numpy only.

>>> from narrowgauge import formats
>>> formats.get("e4m3fn").max
448.0
>>> formats.get("e4m3fn").encode([0.001, 17.0, 464.0])
array([  1,  88, 126], dtype=uint8)
"""

from __future__ import annotations

from narrowgauge.formats import catalogue as catalogue
from narrowgauge.formats import dynamic_tree as dynamic_tree
from narrowgauge.formats.affine import AffineQuantized, quantize_affine
from narrowgauge.formats.block import BlockFormat
from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.format import Format
from narrowgauge.formats.info import FormatInfo, finfo
from narrowgauge.formats.integers import IntFormat, fixed_point
from narrowgauge.formats.p3109 import p3109
from narrowgauge.formats.quantizer import Quantized, quantize_reference, round_to_odd_float32
from narrowgauge.formats.registry import get, names, register
from narrowgauge.formats.rf8 import RF8Format, rf8
from narrowgauge.formats.rounding import NanPolicy, Overflow, Rounding
from narrowgauge.formats.scaling import ScaleRule, scale_from_amax
from narrowgauge.formats.scheme import Scheme, parse

__all__ = [
    "AffineQuantized",
    "BlockFormat",
    "CodebookFormat",
    "FloatFormat",
    "Format",
    "FormatInfo",
    "IntFormat",
    "NanPolicy",
    "Overflow",
    "Quantized",
    "RF8Format",
    "Rounding",
    "ScaleRule",
    "Scheme",
    "finfo",
    "fixed_point",
    "get",
    "names",
    "p3109",
    "parse",
    "quantize_affine",
    "quantize_reference",
    "register",
    "rf8",
    "round_to_odd_float32",
    "scale_from_amax",
]
