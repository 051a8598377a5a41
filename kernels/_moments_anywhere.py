"""Stored moments of one flat tensor by the pure functions, with temporaries of its size: for devices without a kernel
of their own for this."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.kernels._draws_torch import draws
from narrowgauge.kernels._moments_pure import decode_rows, encode_rows
from narrowgauge.kernels._pure_codec import is_signed, pure_codec
from narrowgauge.kernels.moments import MomentCodec


def decode_stored(codec: MomentCodec, codes: Tensor, scale: Tensor | None, count: int, key: int, offset: int) -> Tensor:
    """float32 [count] of what `empty_moment` makes; key, offset: of the draws of dithered codes."""
    u = _draws(codec, count, key, offset, codes.device) if codec.rounding == "dither" else None
    narrow = _unpack(codes.view(-1), is_signed(codec))[:count] if codec.per_byte > 1 else codes.view(-1)
    rows = decode_rows(pure_codec(codec, codes.device), _grouped(narrow, codec.group), _numbers(codec, scale), u)
    values = rows.reshape(-1)[:count]
    return values * values if codec.kind == "log" else values


def encode_stored(codec: MomentCodec, x: Tensor, codes: Tensor, scale: Tensor | None, key: int, offset: int) -> None:
    """Writes codes and scale of float32 x, flat."""
    u = _draws(codec, x.numel(), key, offset, x.device) if codec.draws else None
    narrow, numbers, _ = encode_rows(pure_codec(codec, x.device), _grouped(x, codec.group), u)
    flat = narrow.reshape(-1)[: x.numel()]
    codes.view(-1).copy_(_pack(flat, codec.zero_code) if codec.per_byte > 1 else flat)
    into = _numbers(codec, scale)
    if into is not None and numbers is not None:
        into.copy_(numbers)


def _numbers(codec: MomentCodec, scale: Tensor | None) -> Tensor | None:
    """As the pure functions have them."""
    return scale.view(torch.int32) if scale is not None and codec.kind == "log" else scale


def _draws(codec: MomentCodec, count: int, key: int, offset: int, device: torch.device) -> Tensor:
    return _grouped(draws(count, key, offset, device), codec.group, 0.5)


def _grouped(x: Tensor, width: int, fill: float = 0) -> Tensor:
    """[groups, width] of flat x, its end filled."""
    return torch.nn.functional.pad(x, (0, -x.numel() % width), value=fill).view(-1, width)


def _pack(codes: Tensor, zero: int) -> Tensor:
    pairs = (_grouped(codes, 2, zero).to(torch.int32) & 15).unbind(1)
    return (pairs[0] | (pairs[1] << 4)).to(torch.uint8)


def _unpack(packed: Tensor, signed: bool) -> Tensor:
    wide = packed.to(torch.int32)
    codes = torch.stack((wide << 28, wide << 24), dim=-1).view(-1) >> 28
    return codes.to(torch.int8) if signed else (codes & 15).to(torch.uint8)
