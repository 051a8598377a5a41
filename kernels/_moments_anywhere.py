"""Stored moments of one flat tensor by the pure functions, with temporaries of its size: for devices without a kernel
of their own for this."""

from __future__ import annotations

from functools import reduce
from operator import or_

import torch
from torch import Tensor

from narrowgauge.kernels._draws_torch import draws
from narrowgauge.kernels._moments_pure import decode_rows, encode_rows
from narrowgauge.kernels._pure_codec import is_signed, pure_codec
from narrowgauge.kernels.moments import MomentCodec


def decode_stored(codec: MomentCodec, codes: Tensor, scale: Tensor | None, count: int, key: int, offset: int) -> Tensor:
    """float32 [count] of what `empty_moment` makes; key, offset: of the draws of dithered codes."""
    u = _draws(codec, count, key, offset, codes.device) if codec.rounding == "dither" else None
    narrow = unpacked(codec, codes, count)
    rows = decode_rows(pure_codec(codec, codes.device), grouped(narrow, codec.group), _numbers(codec, scale), u)
    values = rows.reshape(-1)[:count]
    return values * values if codec.kind == "log" else values


def encode_stored(codec: MomentCodec, x: Tensor, codes: Tensor, scale: Tensor | None, key: int, offset: int) -> None:
    """Writes codes and scale of float32 x, flat."""
    u = _draws(codec, x.numel(), key, offset, x.device) if codec.draws else None
    narrow, numbers, _ = encode_rows(pure_codec(codec, x.device), grouped(x, codec.group), u)
    codes.view(-1).copy_(packed(codec, narrow.reshape(-1)[: x.numel()]))
    into = _numbers(codec, scale)
    if into is not None and numbers is not None:
        into.copy_(numbers)


def _numbers(codec: MomentCodec, scale: Tensor | None) -> Tensor | None:
    """As the pure functions have them."""
    return scale.view(torch.int32) if scale is not None and codec.kind == "log" else scale


def _draws(codec: MomentCodec, count: int, key: int, offset: int, device: torch.device) -> Tensor:
    return grouped(draws(count, key, offset, device), codec.group, 0.5)


def grouped(x: Tensor, width: int, fill: float = 0) -> Tensor:
    """[groups, width] of flat x, its end filled."""
    return torch.nn.functional.pad(x, (0, -x.numel() % width), value=fill).view(-1, width)


def packed(codec: MomentCodec, codes: Tensor) -> Tensor:
    """Flat codes, one an element, as they are stored; places that the last byte has too many hold the code of zero."""
    if codec.per_byte == 1:
        return codes
    fields = grouped(codes.to(torch.uint8), codec.per_byte, codec.zero_code) & ((1 << codec.bits) - 1)
    return reduce(or_, (field << (codec.bits * place) for place, field in enumerate(fields.unbind(1))))


def unpacked(codec: MomentCodec, codes: Tensor, count: int) -> Tensor:
    """The `count` codes of what `packed` gave, flat, in eight bits each."""
    flat = codes.view(-1)
    if codec.per_byte == 1:
        return flat
    fields = [flat >> (codec.bits * place) for place in range(codec.per_byte)]
    narrow = torch.stack(fields, dim=-1).view(-1)[:count] & ((1 << codec.bits) - 1)
    sign = 1 << (codec.bits - 1)
    return (narrow ^ sign).view(torch.int8) - sign if is_signed(codec) else narrow
