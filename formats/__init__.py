"""Number formats, bit by bit: frozen data, exact encode and decode, scale rules and schemes. numpy only.

>>> from narrowgauge import formats
>>> formats.get("e4m3fn").max
448.0
>>> formats.get("e4m3fn").encode([0.001, 17.0, 464.0])
array([  1,  88, 126], dtype=uint8)
"""

from __future__ import annotations

from narrowgauge.formats import catalogue as catalogue

# isort: split
from narrowgauge.formats import bitsandbytes as bitsandbytes
from narrowgauge.formats import dynamic_tree as dynamic_tree
from narrowgauge.formats import float_names as float_names
from narrowgauge.formats import power_of_two as power_of_two
from narrowgauge.formats import sign as sign
from narrowgauge.formats.adaptivfloat import AdaptivFloatQuantized, adaptivfloat, quantize_adaptivfloat
from narrowgauge.formats.affine import AffineQuantized, quantize_affine
from narrowgauge.formats.block import BlockFormat
from narrowgauge.formats.block_floating_point import bfp
from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.ffp8 import ffp8, ffp8_for
from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.format import Format
from narrowgauge.formats.hif8 import HiF8Format, hif8
from narrowgauge.formats.info import FormatInfo, finfo
from narrowgauge.formats.integers import IntFormat, fixed_point
from narrowgauge.formats.lns import LNSFormat, lns
from narrowgauge.formats.managed_exponent import (
    Autoflex,
    DynamicFixedPoint,
    OverflowCount,
    SharedExponent,
    int32_chain_length,
    quantize_dfp16,
    quantize_to_exponent,
)
from narrowgauge.formats.p3109 import p3109
from narrowgauge.formats.packing import (
    pack,
    pack_trits,
    packed_nbytes,
    packed_trits_nbytes,
    unpack,
    unpack_trits,
)
from narrowgauge.formats.posit import PositFormat, posit
from narrowgauge.formats.quantizer import Quantized, quantize_reference, round_to_odd_float32
from narrowgauge.formats.registry import families, get, names, register, register_family
from narrowgauge.formats.rf8 import RF8Format, rf8
from narrowgauge.formats.rf8_readings import RF8Reading, RF8Rule, rf8_reading
from narrowgauge.formats.rounding import NanPolicy, Overflow, Rounding, Subnormals
from narrowgauge.formats.s2fp8 import S2FP8Quantized, quantize_s2fp8
from narrowgauge.formats.scaling import ScaleRule, scale_from_amax
from narrowgauge.formats.scheme import Scheme, parse
from narrowgauge.formats.takum import TakumFormat, takum

__all__ = [
    "AdaptivFloatQuantized",
    "AffineQuantized",
    "Autoflex",
    "BlockFormat",
    "CodebookFormat",
    "DynamicFixedPoint",
    "FloatFormat",
    "Format",
    "FormatInfo",
    "HiF8Format",
    "IntFormat",
    "LNSFormat",
    "NanPolicy",
    "Overflow",
    "OverflowCount",
    "PositFormat",
    "Quantized",
    "RF8Format",
    "RF8Reading",
    "RF8Rule",
    "Rounding",
    "S2FP8Quantized",
    "ScaleRule",
    "Scheme",
    "SharedExponent",
    "Subnormals",
    "TakumFormat",
    "adaptivfloat",
    "bfp",
    "families",
    "ffp8",
    "ffp8_for",
    "finfo",
    "fixed_point",
    "get",
    "hif8",
    "int32_chain_length",
    "lns",
    "names",
    "p3109",
    "pack",
    "pack_trits",
    "packed_nbytes",
    "packed_trits_nbytes",
    "parse",
    "posit",
    "quantize_adaptivfloat",
    "quantize_affine",
    "quantize_dfp16",
    "quantize_reference",
    "quantize_s2fp8",
    "quantize_to_exponent",
    "register",
    "register_family",
    "rf8",
    "rf8_reading",
    "round_to_odd_float32",
    "scale_from_amax",
    "takum",
    "unpack",
    "unpack_trits",
]
