"""A codec as pure functions take it: plain numbers and tables, which torch.compile makes constants and inputs of."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels._tables_torch import EncodeTable, decode_table, encode_table
from narrowgauge.kernels.layout import Layout, layout_of
from narrowgauge.kernels.moments import MomentCodec


class PureCodec(NamedTuple):
    """`MomentCodec`'s fields and properties of the same names, and further ones.

    number: dtype of the numbers. narrow: dtype of codes, one a byte, or of `plain` values. narrows: whether these are
    bfloat16's. integer: codes are their values. layout: None for kinds without a format. largest_bits, smallest_bits:
    of float32. values, codes: tables of formats that bit arithmetic does not serve. axes: those of a group.
    """

    kind: str
    second: bool
    rounding: str
    whitened: bool
    draws: bool
    scale_dtype: str
    levels: int
    most_step: float
    log2_range: float
    power_steps: int
    least_power: float
    target: float
    largest: float
    lowest: float
    largest_bits: int
    smallest_bits: int
    zero_code: int
    number: torch.dtype
    narrow: torch.dtype
    narrows: bool
    integer: bool
    layout: Layout | None
    values: Tensor | None
    codes: EncodeTable | None
    axes: tuple[int, ...] = (-1,)


def is_integer(codec: MomentCodec) -> bool:
    """Whether codes of a kind with a format are their values."""
    layout = layout_of(codec.element)
    return layout.kind == "int" and layout.fraction_bits == 0


def is_signed(codec: MomentCodec) -> bool:
    """Whether codes are two's complement."""
    return codec.kind == "softsign" or (codec.kind in ("linear", "root") and layout_of(codec.element).signed_codes)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))


@lru_cache(maxsize=256)
def pure_codec(codec: MomentCodec, device: torch.device) -> PureCodec:
    """What pure functions need to know of a codec."""
    has_format = codec.is_coded and bool(codec.format)
    layout = layout_of(codec.element) if has_format else None
    integer = has_format and is_integer(codec)
    by_table = layout is not None and layout.kind != "float" and not integer
    narrow = torch.int8 if is_signed(codec) else torch.uint8
    return PureCodec(
        codec.kind, codec.second, codec.rounding, codec.whitened, codec.draws, codec.scale_dtype, codec.levels,
        codec.most_step, codec.log2_range, codec.power_steps, codec.least_power,
        codec.target if has_format else 1.0,
        codec.largest if has_format else 0.0,
        codec.lowest if has_format else 0.0,
        _bits(codec.largest) if has_format else 0,
        _bits(codec.smallest) if has_format else 0,
        codec.zero_code,
        codec.torch_scale_dtype,
        narrow if codec.is_coded else codec.dtype,
        not codec.is_coded and codec.dtype is torch.bfloat16,
        integer,
        layout,
        decode_table(codec.element, device) if by_table else None,
        encode_table(codec.element, False, device) if by_table else None,
    )  # fmt: skip
