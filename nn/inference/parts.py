"""A frozen weight as its tensors, and its rows decoded.

    w[n, k] = (decode(codes[n, k]) - zero_point) · scale          float32, then the wanted dtype

`scale` is one of these, each for its tile of the scheme (nn/inference/double.py has the last):

    plain       float32                       scale
    block       scale codes, outer            decode(scale) · outer           (MX, NVFP4)
    double      dynamic8 codes, float32       decode(scale) · second + mean   (arXiv 2305.14314 §3)
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import Format, Scheme, parse
from narrowgauge.formats.packing import packed_nbytes
from narrowgauge.kernels._tables_torch import decode
from narrowgauge.kernels.dequantize import factors_of
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.packing import pack, unpack
from narrowgauge.kernels.tensor import dequantize_raw
from narrowgauge.kernels.tiles import multiply_tiles, spread_rows
from narrowgauge.nn.inference.double import double_decoded


class Parts(NamedTuple):
    """codes: [N, K] of 8 bits, else packed uint8 [N, packed_nbytes(K, bits)]. scale: `Scheme.scale_shape((N, K))`.
    outer: [], of two-level formats. zero_point: float32, the shape of scale. second: [scales / 256] float32 and mean:
    [] float32 of double-quantised scales."""

    codes: Tensor
    scale: Tensor
    outer: Tensor | None = None
    zero_point: Tensor | None = None
    second: Tensor | None = None
    mean: Tensor | None = None


def check_values(weight: Tensor) -> None:
    """ValueError for the weight of a layer on the meta device."""
    if weight.is_meta:
        raise ValueError(
            "layer: its weight is on the meta device, so it has no values to quantise; give it values first (to_empty "
            "and load_state_dict)"
        )


def stored_codes(codes: Tensor, fmt: Format) -> Tensor:
    """One code per element as it is kept: narrower ones packed along the last axis."""
    return codes.contiguous() if fmt.bits == 8 else pack(codes, fmt.bits)


def stored_shape(rows: int, cols: int, fmt: Format) -> tuple[int, int]:
    """Shape of `stored_codes`."""
    return rows, packed_nbytes(cols, fmt.bits)


def stored_dtype(fmt: Format) -> torch.dtype:
    """dtype of `stored_codes`: uint8, or int8 for signed integers of 8 bits."""
    return layout_of(fmt).code_dtype if fmt.bits == 8 else torch.uint8


_BYTES = {4: torch.int16, 2: torch.int32, 1: torch.int64}
_FLOATS = {4: torch.float64, 2: torch.complex128}
"""By bits of a code, dtypes as wide as the codes of a byte, and as their float32 values: a gather of single wide
elements is several times faster than one of short rows, and than taking bits apart."""


@lru_cache(maxsize=64)
def _byte_codes(bits: int, signed: bool, device: torch.device) -> Tensor:
    """The codes of every packed byte, those of one as a single element [256]."""
    every = torch.arange(256, dtype=torch.uint8).unsqueeze(1)
    return unpack(every, bits, 8 // bits, signed=signed).view(_BYTES[bits]).squeeze(1).to(device)


@lru_cache(maxsize=64)
def _byte_values(fmt: Format, device: torch.device) -> Tensor:
    """The float32 values of every packed byte, those of one as a single element [256]."""
    codes = unpack(
        torch.arange(256, dtype=torch.uint8).unsqueeze(1), fmt.bits, 8 // fmt.bits, layout_of(fmt).signed_codes
    )
    return decode(codes, fmt).view(_FLOATS[fmt.bits]).squeeze(1).to(device)


def _gathered(table: Tensor, codes: Tensor, dtype: torch.dtype, per_byte: int, cols: int) -> Tensor:
    found = torch.index_select(table, 0, codes.reshape(-1).int()).view(dtype)
    return found.view(codes.shape[0], codes.shape[1] * per_byte)[:, :cols]


def plain_codes(codes: Tensor, fmt: Format, cols: int) -> Tensor:
    """`stored_codes` taken back: uint8, or int8 for signed integers, [rows, cols], contiguous."""
    layout = layout_of(fmt)
    if fmt.bits == 8:
        return codes
    if fmt.bits not in _BYTES:
        return unpack(codes, fmt.bits, cols, signed=layout.signed_codes)
    table = _byte_codes(fmt.bits, layout.signed_codes, codes.device)
    return _gathered(table, codes, layout.code_dtype, 8 // fmt.bits, cols).contiguous()


def decoded(codes: Tensor, fmt: Format, cols: int) -> Tensor:
    """float32 values [rows, cols] of stored codes, unscaled."""
    if fmt.bits not in _FLOATS:
        return decode(plain_codes(codes, fmt, cols), fmt)
    return _gathered(_byte_values(fmt, codes.device), codes, torch.float32, 8 // fmt.bits, cols)


def rows_of(parts: Parts, spec: Scheme, start: int, stop: int) -> Parts:
    """Rows start … stop - 1 of a weight; start is a multiple of the tile's height."""
    if spec.tile[0] is None:
        return parts._replace(codes=parts.codes[start:stop])
    tiles = slice(start // spec.tile[0], -(-stop // spec.tile[0]))
    zero_point = None if parts.zero_point is None else parts.zero_point[tiles]
    scale = parts.scale[tiles]
    if parts.second is not None and parts.mean is not None:
        first = tiles.start * parts.scale.shape[1]
        number = torch.arange(first, first + scale.numel(), device=scale.device)
        scale = double_decoded(scale, parts.second, parts.mean, number)
    return parts._replace(codes=parts.codes[start:stop], scale=scale, zero_point=zero_point, second=None, mean=None)


def picked_rows(parts: Parts, index: Tensor) -> Parts:
    """The rows of a weight, whose tiles are one row high, that `index` [n] names; IndexError outside of the weight."""
    scale = torch.index_select(parts.scale, 0, index)
    if parts.second is not None and parts.mean is not None:
        per_row = parts.scale.shape[1]
        number = index.unsqueeze(1) * per_row + torch.arange(per_row, device=index.device)
        scale = double_decoded(scale, parts.second, parts.mean, number)
    zero_point = None if parts.zero_point is None else torch.index_select(parts.zero_point, 0, index)
    codes = torch.index_select(parts.codes, 0, index)
    return parts._replace(codes=codes, scale=scale, zero_point=zero_point, second=None, mean=None)


def plain_scale(parts: Parts) -> Tensor:
    """The scale of the scheme: double-quantised ones decoded."""
    if parts.second is None or parts.mean is None:
        return parts.scale
    return double_decoded(parts.scale, parts.second, parts.mean)


def decoded_rows(parts: Parts, spec: Scheme, cols: int) -> Tensor:
    """float32 weight [rows, cols] of a few rows, on any device."""
    values = decoded(parts.codes, spec.element, cols)
    if parts.zero_point is not None:
        values = values - spread(parts.zero_point, spec, values.shape[0], cols)
    outer = parts.codes.new_ones((), dtype=torch.float32) if parts.outer is None else parts.outer
    return multiply_tiles(values, factors_of(plain_scale(parts), outer, spec, cols), spec.factor_tile)


def spread(grid: Tensor, spec: Scheme, rows: int, cols: int) -> Tensor:
    """A number per tile as one per element, or fewer where broadcasting does."""
    by_row = spread_rows(grid, spec.tile[0], rows)
    width = spec.tile[1]
    return by_row if width is None else by_row.repeat_interleave(width, dim=1)[:, :cols]


def whole(parts: Parts, scheme: str, cols: int, dtype: torch.dtype) -> Tensor:
    """The whole weight [N, cols], rounded once from float32 to `dtype`."""
    spec = parse(scheme)
    if parts.zero_point is not None or parts.codes.device.type == "cpu":
        return decoded_rows(parts, spec, cols).to(dtype)
    outer = parts.codes.new_ones((), dtype=torch.float32) if parts.outer is None else parts.outer
    return dequantize_raw(plain_codes(parts.codes, spec.element, cols), plain_scale(parts), outer, scheme, dtype)
