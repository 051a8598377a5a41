"""Stored moments on the CPU: few in-place passes over a block of whole groups that stays in a core's cache.

The common case, finite groups without zeros, takes no detour; statistics of the groups tell where it does not hold.
Written for torch's vectorised operations: masks and selections are not among them, so signs and floors are arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.kernels._scales_torch import amax_scale, inverse
from narrowgauge.kernels._tables_torch import decode_table, encode_by_table
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.moments import MOST_POWER, SMALLEST_MAGNITUDE, MomentCodec

# Tensors, because torch would make one of a Python integer in every call.
_SIGN_BIT = torch.tensor(-(2**31), dtype=torch.int32)
_HALF_SHIFT = torch.tensor(7, dtype=torch.int16)  # float16 has seven mantissa bits more than E4M3
_HALF_FIELD = torch.tensor(-(2**15) | (0x7F << 7), dtype=torch.int16)  # sign and the seven other bits of the code
_HALF_BIAS = 2.0**8  # float16's exponent bias exceeds E4M3's by 8
_LARGEST_SUBNORMAL = SMALLEST_MAGNITUDE * (1 - 2.0**-23)


class Scratch:
    """Working memory for blocks of at most `size` elements: one allocation, which the allocator then keeps at hand.

    a, b, half (int16): for the functions of this module; p, g, m, v: float32 operands of an update.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        rows = torch.empty(7, size, device=device)
        self.a, self.b, self.p, self.g, self.m, self.v, half = rows.unbind()
        self.half = half.view(torch.int16)


class Part(NamedTuple):
    """Whole groups of a stored moment (or the short last one, as a group of its own size), and their float32 buffer."""

    codec: MomentCodec
    codes: Tensor
    scale: Tensor
    values: Tensor


def parts(codec: MomentCodec, codes: Tensor, scale: Tensor, values: Tensor, start: int, stop: int) -> Iterator[Part]:
    """Elements start to stop of a flat moment; start is the first of a group."""
    group = codec.group
    first, last = start // group, stop // group
    whole = last * group - start
    if whole:
        yield Part(codec, codes[start : start + whole], scale[first:last], values[:whole])
    if start + whole < stop:
        short = codec._replace(group=stop - start - whole)
        yield Part(short, codes[start + whole : stop], scale[last:], values[whole : stop - start])


def decode_block(codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Writes float32 moments to `out`. codes, out: flat, whole groups; scale: [groups, columns]."""
    _DECODERS[codec.kind](codec, codes, scale, out, scratch)


def encode_block(codec: MomentCodec, codes: Tensor, scale: Tensor, x: Tensor, scratch: Scratch) -> None:
    """Writes codes and scale of float32 moments x, which is scratch afterwards. Shapes as in `decode_block`."""
    _ENCODERS[codec.kind](codec, codes, scale, x, scratch)


def decode_moment(codec: MomentCodec, codes: Tensor, scale: Tensor | None) -> Tensor:
    """float32 moments, of the shape of `codes`, on any device."""
    if scale is None:
        return codes.float()
    count = codes.numel()
    scratch = Scratch(count, codes.device)
    out = torch.empty(count, device=codes.device)
    for part in parts(codec, codes.view(-1), scale, out, 0, count):
        decode_block(*part, scratch)
    return out.view(codes.shape)


def _rows(x: Tensor, codec: MomentCodec) -> Tensor:
    return x.view(-1, codec.group)


def _decode_plain(codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch) -> None:
    out.copy_(codes)


def _encode_plain(codec: MomentCodec, codes: Tensor, scale: Tensor, x: Tensor, scratch: Scratch) -> None:
    codes.copy_(x)


def _e4m3_values(codes: Tensor, out: Tensor, half: Tensor) -> None:
    """2^-8 times the values of finite E4M3 codes: the bits move into a float16, which the hardware converts."""
    moved = half[: codes.numel()]
    moved.copy_(codes.view(torch.int8)).bitwise_left_shift_(_HALF_SHIFT).bitwise_and_(_HALF_FIELD)
    out.copy_(moved.view(torch.float16))


def _take_signs(x: Tensor, magnitude: Tensor) -> None:
    """x becomes `magnitude` with the signs of x."""
    x.view(torch.int32).bitwise_and_(_SIGN_BIT).bitwise_or_(magnitude.view(torch.int32))


def _is_integer(codec: MomentCodec) -> bool:
    """Whether codes are their values."""
    layout = layout_of(codec.element)
    return layout.kind == "int" and layout.fraction_bits == 0


def _decode_linear(codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch) -> None:
    if codec.format == "e4m3fn":
        _e4m3_values(codes, out, scratch.half)
        scale = scale * _HALF_BIAS
    elif _is_integer(codec):
        out.copy_(codes)
    else:
        index = scratch.a[: codes.numel()].view(torch.int32).copy_(codes.view(torch.uint8))
        torch.index_select(decode_table(codec.element, codes.device), 0, index, out=out)
    _rows(out, codec).mul_(scale)


def _decode_root(codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch) -> None:
    _decode_linear(codec, codes, scale, out, scratch)
    out.mul_(out)


def _decode_expanded(codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch) -> None:
    _e4m3_values(codes, out, scratch.half)
    magnitude = out if codec.second else torch.abs(out, out=scratch.a[: out.numel()])
    amax, power = scale.split(1, dim=1)
    root = power.reciprocal()
    factor = (root * log(_HALF_BIAS / codec.largest)).exp_().mul_(amax)
    _rows(magnitude.log_(), codec).mul_(root).exp_().mul_(factor)
    if not codec.second:
        _take_signs(out, magnitude)


def _magnitudes(x: Tensor, codec: MomentCodec, scratch: Scratch) -> Tensor:
    """|x|, [groups, group]; x itself for second moments."""
    return _rows(x if codec.second else torch.abs(x, out=scratch.a[: x.numel()]), codec)


def _statistics(magnitude: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Largest and smallest of every group, [groups, 1], and whether all are finite."""
    high, low = magnitude.amax(1, keepdim=True), magnitude.amin(1, keepdim=True)
    return high, low, float(high.amax()) < torch.inf


def _silence(high: Tensor, *grouped: Tensor) -> tuple[Tensor, Tensor]:
    """Zeroes the groups that are not finite; returns their maxima, with 0 for those, and which are finite."""
    finite = torch.isfinite(high)
    for tensor in grouped:
        tensor.masked_fill_(~finite, 0.0)
    return torch.where(finite, high, 0.0), finite


def _floor_of_positives(x: Tensor, codec: MomentCodec, scratch: Scratch) -> Tensor:
    """The codes' smallest value where a second moment is positive, else 0: nothing positive may round to zero."""
    floor = torch.sign(x, out=scratch.b[: x.numel()].view(x.shape))
    return floor.mul_(codec.smallest)


def _store(y: Tensor, codec: MomentCodec, codes: Tensor) -> None:
    """Codes of float32 y, which lies in the range of the format; y is overwritten."""
    if codec.format == "e4m3fn":
        codes.view(torch.float8_e4m3fn).copy_(y)  # in range, where torch's cast is exact in every version
    elif _is_integer(codec):
        codes.copy_(y.round_())
    else:
        codes.copy_(encode_by_table(y, codec.element))


def _encode_scaled(codec: MomentCodec, codes: Tensor, scale: Tensor, x: Tensor, scratch: Scratch) -> None:
    """The kinds linear and root."""
    if codec.kind == "root":
        x.sqrt_()
    grouped = _rows(x, codec)
    high, low, all_finite = _statistics(_magnitudes(x, codec, scratch))
    finite = None
    if not all_finite:
        high, finite = _silence(high, grouped)
    factor = amax_scale(high, codec.target)
    scale.copy_(factor if finite is None else torch.where(finite, factor, torch.nan))
    inverted = inverse(factor)
    floor = None
    if codec.second and not bool((low * inverted >= codec.reached).all()):
        floor = _floor_of_positives(grouped, codec, scratch)
    grouped.mul_(inverted)
    if floor is not None:
        torch.maximum(grouped, floor, out=grouped)
    x.clamp_(codec.lowest, codec.largest)
    _store(x, codec, codes)


def _encode_expanded(codec: MomentCodec, codes: Tensor, scale: Tensor, x: Tensor, scratch: Scratch) -> None:
    magnitude = _magnitudes(x, codec, scratch)
    high, low, all_finite = _statistics(magnitude)
    finite = None
    if not (all_finite and float(low.amin()) >= SMALLEST_MAGNITUDE):
        high, finite = _silence(high, magnitude, _rows(x, codec))
        high, low = _without_zeros(magnitude, high, scratch)
    steps = codec.power_steps
    power = torch.full_like(high, steps * codec.log2_range).div_(torch.div(high, low).log2_())
    power.floor_().div_(steps).clamp_(codec.least_power, MOST_POWER)
    torch.cat((high, power), dim=1, out=scale)
    if finite is not None:
        scale.masked_fill_(~finite, torch.nan)
    floor = None
    if codec.second and float(power.amin()) <= codec.least_power:
        floor = _floor_of_positives(magnitude, codec, scratch)
    magnitude.mul_(high.reciprocal()).log_().mul_(power).exp_().mul_(codec.largest)
    if floor is not None:
        torch.maximum(magnitude, floor, out=magnitude)
    if not codec.second:
        _take_signs(x, magnitude.view(-1))
    _store(x, codec, codes)


def _without_zeros(magnitude: Tensor, high: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Makes magnitudes below SMALLEST_MAGNITUDE zero; returns each group's largest and smallest of the others, and
    1 and 1 where there are none."""
    torch.threshold(magnitude, _LARGEST_SUBNORMAL, 0.0, out=magnitude)
    occupied = high >= SMALLEST_MAGNITUDE
    positive = scratch.b[: magnitude.numel()].view(magnitude.shape)
    low = torch.threshold(magnitude, 0.0, torch.inf, out=positive).amin(1, keepdim=True)
    return torch.where(occupied, high, 1.0), torch.where(occupied, low, 1.0)


_Decoder = Callable[[MomentCodec, Tensor, Tensor, Tensor, Scratch], None]
_DECODERS: dict[str, _Decoder] = {
    "plain": _decode_plain,
    "linear": _decode_linear,
    "root": _decode_root,
    "expanded": _decode_expanded,
}
_ENCODERS: dict[str, _Decoder] = {
    "plain": _encode_plain,
    "linear": _encode_scaled,
    "root": _encode_scaled,
    "expanded": _encode_expanded,
}
