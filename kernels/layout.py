"""The numbers by which a kernel knows a format: plain data, handed to Triton as one compile-time constant."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from narrowgauge.formats import CodebookFormat, FloatFormat, Format, IntFormat, RF8Format
from narrowgauge.formats.rf8 import mantissa_thresholds

RF8_THRESHOLDS = mantissa_thresholds(23)


class Layout(NamedTuple):
    """Encode and decode parameters of one element format, integers and floats alone (see `kernels/_cast.py`).

    kind: "float", "int" or "rf8". max: largest value. sign_bit: its place in the code, 0 if unsigned. nan_code: -1 if
    none. For floats: mantissa_bits, emin (exponent of the smallest normal), bias, max_code, has_inf, negative_zero.
    For integers: fraction_bits, and max_code / min_code.
    """

    kind: str
    max: float
    sign_bit: int
    nan_code: int
    max_code: int
    min_code: int = 0
    mantissa_bits: int = 0
    emin: int = 0
    bias: int = 0
    has_inf: bool = False
    negative_zero: bool = False
    fraction_bits: int = 0

    @property
    def code_dtype(self) -> torch.dtype:
        return torch.int8 if self.kind == "int" and self.sign_bit else torch.uint8


@lru_cache(maxsize=256)
def layout_of(fmt: Format) -> Layout:
    """The layout of `fmt`. ValueError, saying why, for formats that the bit-arithmetic kernels do not serve."""
    if fmt.bits > 8:
        raise ValueError(f"format: kernels serve codes of at most 8 bits, {fmt.name} has {fmt.bits}")
    nan = -1 if fmt.nan_code is None else fmt.nan_code
    if isinstance(fmt, FloatFormat):
        magnitude_bits = fmt.exponent_bits + fmt.mantissa_bits
        if not fmt.has_zero or fmt.mantissa_bits - fmt.emin > 127:
            raise ValueError(f"format: {fmt.name} holds scales, not elements; kernels serve formats with a zero")
        return Layout(
            kind="float",
            max=fmt.max,
            sign_bit=1 << magnitude_bits if fmt.signed else 0,
            nan_code=nan,
            max_code=int(fmt.encode(fmt.max)),
            mantissa_bits=fmt.mantissa_bits,
            emin=fmt.emin,
            bias=fmt.bias,
            has_inf=fmt.has_inf,
            negative_zero=fmt.has_negative_zero,
        )
    if isinstance(fmt, IntFormat):
        sign = 1 << (fmt.width - 1) if fmt.signed else 0
        return Layout("int", fmt.max, sign, nan, fmt.max_code, fmt.min_code, fraction_bits=fmt.fraction_bits)
    if isinstance(fmt, RF8Format):
        return Layout("rf8", fmt.max, 0x80, nan, 0x7F, bias=fmt.bias)
    kind = "codebook" if isinstance(fmt, CodebookFormat) else type(fmt).__name__
    raise ValueError(
        f"format: no kernel serves the {kind} {fmt.name!r}; kernels serve floats, integers and RF8 of at most 8 bits"
    )
