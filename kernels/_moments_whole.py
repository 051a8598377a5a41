"""Second moments that take a whole tensor: the kinds rank-1 and quantile of `kernels/moments.py`, in torch, on any
device. Tensors of one axis have no columns: rank-1 then is the kind linear, in groups."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.kernels._draws_torch import draws
from narrowgauge.kernels._group_numbers import group_scale
from narrowgauge.kernels._moments_anywhere import grouped, packed, unpacked
from narrowgauge.kernels._scales_torch import inverse
from narrowgauge.kernels._tables_torch import decode_table, encode_by_table
from narrowgauge.kernels.moments import QUANTILE, SMALLEST_MAGNITUDE, MomentCodec


def encode_whole(
    codec: MomentCodec, x: Tensor, shape: torch.Size, codes: Tensor, scale: Tensor, key: int = 0, offset: int = 0
) -> None:
    """Writes codes and scale (as `empty_moment` makes them) of a float32 second moment x, any strides, of `shape`.

    key, offset: of the draws (kernels/random_words.py), for codecs that take them.
    """
    x = x.reshape(-1)
    if codec.kind == "quantile":
        stored, numbers = _encode_quantile(codec, x, key, offset)
    elif len(shape) > 1:
        stored, numbers = _encode_rank1(codec, x.view(shape[0], shape[1:].numel()))
    else:
        stored, numbers = _encode_rows(codec, grouped(x, codec.group))
    codes.copy_(packed(codec, stored.reshape(-1)[: x.numel()]).view(codes.shape))
    scale.copy_(numbers.view(scale.shape))


def decode_whole(codec: MomentCodec, codes: Tensor, scale: Tensor, shape: torch.Size) -> Tensor:
    """float32 of `shape`, what codes and scale read back as."""
    flat = unpacked(codec, codes, shape.numel()).to(torch.int32)
    if codec.kind == "quantile":
        amax, base = scale.split(1, dim=1)
        return (amax * base ** grouped(flat.float(), codec.group)).reshape(-1)[: flat.numel()].view(shape)
    values = decode_table(codec.element, codes.device)[flat]
    if len(shape) > 1:
        return (values.view(shape[0], shape[1:].numel()) * _combined(scale, shape)).view(shape)
    return (grouped(values, codec.group) * scale).reshape(-1)[: flat.numel()].view(shape)


def _element_codes(x: Tensor, scale: Tensor, codec: MomentCodec) -> Tensor:
    """Codes of x / scale (finite), which broadcast; the smallest for what is positive and would become 0."""
    y = (x * inverse(scale)).clamp(max=codec.largest)
    floored = torch.maximum(y, (x > 0) * codec.smallest)
    return encode_by_table(floored, codec.element)


def _encode_rows(codec: MomentCodec, x: Tensor) -> tuple[Tensor, Tensor]:
    finite = torch.isfinite(x).all(dim=1, keepdim=True)
    known = torch.where(finite, x, 0.0)
    scale = group_scale(known.amax(dim=1, keepdim=True), codec)
    return _element_codes(known, scale, codec), torch.where(finite, scale, torch.nan)


def _encode_rank1(codec: MomentCodec, x: Tensor) -> tuple[Tensor, Tensor]:
    finite = torch.isfinite(x)
    known = torch.where(finite, x, 0.0)
    numbers = torch.cat([_maxima(known, finite, axis, codec) for axis in (1, 0)])
    combined = _combined(numbers, torch.Size(x.shape))
    return _element_codes(known, torch.where(combined.isnan(), 1.0, combined), codec), numbers


def _maxima(known: Tensor, finite: Tensor, axis: int, codec: MomentCodec) -> Tensor:
    """Scales of rows (axis 1) or columns, NaN for those with an element that is not finite."""
    amax = known.amax(dim=axis) if known.numel() else known.sum(dim=axis)
    return torch.where(finite.all(dim=axis), group_scale(amax, codec), torch.nan)


def _combined(numbers: Tensor, shape: torch.Size) -> Tensor:
    """The smaller number of an element's row and column that is not NaN, [rows, columns]."""
    return torch.fmin(numbers[: shape[0], None], numbers[None, shape[0] :])


def _encode_quantile(codec: MomentCodec, x: Tensor, key: int, offset: int) -> tuple[Tensor, Tensor]:
    last = (1 << codec.bits) - 1
    rows = grouped(x, codec.group)
    finite = torch.isfinite(rows).all(dim=1, keepdim=True)
    positive = (rows >= SMALLEST_MAGNITUDE) & finite
    amax = torch.where(positive, rows, 0.0).amax(dim=1, keepdim=True) if rows.numel() else rows.new_zeros(0, 1)
    occupied = amax > 0
    ratio = torch.where(occupied, rows.clamp(min=SMALLEST_MAGNITUDE) / torch.where(occupied, amax, 1.0), 1.0)
    at = _quantile(torch.where(positive, ratio, torch.inf), positive.sum(dim=1, keepdim=True))
    base = torch.where(occupied, at, 1.0) ** (1.0 / last)
    y = torch.where(base < 1, ratio.log() / torch.where(base < 1, base, 0.5).log(), 0.0)
    u = grouped(draws(x.numel(), key, offset, x.device), codec.group) if codec.draws else 0.5
    codes = torch.where(finite, torch.floor(y + u).clamp(0, last), 0.0)
    return codes, torch.where(finite, torch.cat((amax, base), dim=1), torch.nan)


def _quantile(x: Tensor, count: Tensor) -> Tensor:
    """The quantile of the `count` smallest of every row, between neighbours linear."""
    ordered = x.sort(dim=1).values
    place = QUANTILE * (count - 1).clamp(min=0)
    low = place.floor().long()
    high = torch.minimum(low + 1, (count - 1).clamp(min=0))
    below, above = ordered.gather(1, low), ordered.gather(1, high)
    return torch.where(low == high, below, below + (place - low) * (above - below))
