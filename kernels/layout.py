"""The numbers by which a kernel knows a format: plain data, handed to Triton as one compile-time constant."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, FloatFormat, Format, IntFormat, RF8Format, Scheme
from narrowgauge.formats.rf8 import mantissa_thresholds
from narrowgauge.kernels.tables import search_table, table_blob

CODE_BITS = 8
"""Widest codes that the kernels serve."""

RF8_THRESHOLDS = mantissa_thresholds(23)


class Layout(NamedTuple):
    """Encode and decode parameters of one element format, integers and floats alone (see `kernels/_cast.py`).

    kind: "float", "int" or "rf8" for bit arithmetic, "table" for the rest (`kernels/tables.py`). max: largest value.
    sign_bit: its place in the code, 0 if unsigned. nan_code: -1 if none. signed_codes: two's complement, int8.
    For floats: mantissa_bits, emin (exponent of the smallest normal), bias, max_code, has_inf, negative_zero.
    For integers: fraction_bits, and max_code / min_code. For tables: steps and level_steps (depth of the searches for a
    rank and a level), levels (how many), mirrored and zero_code (-0) of stochastic rounding. flush: subnormal results
    become zero.
    """

    kind: str
    max: float
    sign_bit: int
    nan_code: int
    max_code: int = 0
    min_code: int = 0
    mantissa_bits: int = 0
    emin: int = 0
    bias: int = 0
    has_inf: bool = False
    negative_zero: bool = False
    fraction_bits: int = 0
    signed_codes: bool = False
    steps: int = 0
    level_steps: int = 0
    levels: int = 0
    mirrored: bool = False
    zero_code: int = 0
    flush: bool = False

    @property
    def code_dtype(self) -> torch.dtype:
        return torch.int8 if self.signed_codes else torch.uint8


@lru_cache(maxsize=256)
def layout_of(fmt: Format, flush: bool = False) -> Layout:
    """The layout of `fmt`; flush: of encoding that flushes subnormal results to zero. ValueError, saying why, for more
    than 8 bits, values that float32 does not hold, and rounding rules that do not ascend."""
    if fmt.bits > CODE_BITS:
        raise ValueError(f"format: kernels serve codes of at most {CODE_BITS} bits, {fmt.name} has {fmt.bits}")
    nan = -1 if fmt.nan_code is None else fmt.nan_code
    # Exact types: a subclass may round by a rule of its own.
    if type(fmt) is FloatFormat and _is_plain_float(fmt):
        return Layout(
            kind="float",
            max=fmt.max,
            sign_bit=1 << (fmt.exponent_bits + fmt.mantissa_bits) if fmt.signed else 0,
            nan_code=nan,
            max_code=int(fmt.encode(fmt.max)),
            mantissa_bits=fmt.mantissa_bits,
            emin=fmt.emin,
            bias=fmt.bias,
            has_inf=fmt.has_inf,
            negative_zero=fmt.has_negative_zero,
            flush=flush,
        )
    if type(fmt) is IntFormat and 0 <= fmt.fraction_bits <= 64:
        sign = 1 << (fmt.width - 1) if fmt.signed else 0
        return Layout(
            "int", fmt.max, sign, nan, fmt.max_code, fmt.min_code, fraction_bits=fmt.fraction_bits,
            signed_codes=fmt.signed,
        )  # fmt: skip
    if type(fmt) is RF8Format:
        return Layout("rf8", fmt.max, 0x80, nan, 0x7F, bias=fmt.bias)
    return _table_layout(fmt, flush, nan)


def _is_plain_float(fmt: FloatFormat) -> bool:
    """Whether float32 arithmetic reaches every value by one product with a power of two; the rest go by table."""
    highest = fmt.emax + (fmt.mantissa_bits == 0)
    return fmt.subnormals and fmt.exponent_bits <= 7 and 0 <= fmt.bias <= 126 - fmt.mantissa_bits and highest <= 127


def _table_layout(fmt: Format, flush: bool, nan: int) -> Layout:
    table = search_table(fmt, flush)
    return Layout(
        kind="table",
        max=fmt.max,
        sign_bit=0,
        nan_code=nan,
        signed_codes=fmt.code_dtype.kind == "i",
        steps=(len(table.codes) - 1).bit_length(),
        level_steps=(len(table.levels) - 1).bit_length(),
        levels=len(table.levels),
        mirrored=bool(table.mirrored),
        zero_code=table.negative_zero,
    )


def layout_for(spec: Scheme) -> Layout:
    """The layout of a scheme's elements. ValueError, also for stochastic rounding that kernels do not know."""
    if spec.stochastic and layout_of(spec.element).kind == "table" and search_table(spec.element).mirrored is None:
        raise ValueError(
            f"format: {spec.element.name} has a stochastic rounding of its own or levels beyond float32, which kernels "
            "do not know; leave out '+sr'"
        )
    return layout_of(spec.element, spec.flush)


def blob_for(spec: Scheme, device: torch.device) -> Tensor | None:
    """What `table_ptr` of the Triton functions takes for a scheme's elements: their blob, None where bit arithmetic
    does."""
    return table_blob(spec.element, device, spec.flush) if layout_of(spec.element).kind == "table" else None


def scale_dtype(spec: Scheme) -> torch.dtype:
    """dtype of the stored scales: float32, or the signed integer of a block format's scale codes beyond 8 bits."""
    if not isinstance(spec.format, BlockFormat):
        return torch.float32
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32}[spec.format.scale_dtype.itemsize]


def has_e8m0_scales(fmt: BlockFormat) -> bool:
    """Whether every block has an E8M0 scale and nothing else, which kernels decode by themselves."""
    return not fmt.two_level and not fmt.micro_size and fmt.scale_format.bits == 8 and fmt.scale_format.bias == 127


def has_float_scales(fmt: BlockFormat) -> bool:
    """Whether the scales are two-level ones whose codes bit arithmetic decodes."""
    return fmt.two_level and layout_of(fmt.scale_format).kind == "float"


def table_signature(layout: Layout | None, name: str = "table_ptr") -> dict[str, str]:
    """The blob's entry in an ahead-of-time signature, for formats that have one."""
    return {name: "*i32"} if layout is not None and layout.kind == "table" else {}


def table_constants(layout: Layout | None, name: str = "table_ptr") -> dict[str, object]:
    """The same among the constants, for formats that have none."""
    return {} if table_signature(layout, name) else {name: None}
