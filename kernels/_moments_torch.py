"""Stored moments on a CPU: few in-place passes over a block of whole groups that stays in a core's cache.

The formulas are those of `kernels/moments.py`; the kinds log and softsign are in `_companded_torch.py`. The
common case, groups without zeros, takes no detour; statistics of the groups tell where it does not hold. Groups that
are not finite take part and are spoiled afterwards. Written for torch's vectorised operations: masks and selections are
not among them, so signs and floors are arithmetic; nor are exp and log, which cost several times what exp2 does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2

import torch
from torch import Tensor

from narrowgauge.kernels._codes_torch import narrow_codes, store_codes, store_stochastic
from narrowgauge.kernels._companded_torch import (
    LARGEST_SUBNORMAL,
    decode_log,
    decode_softsign,
    encode_log,
    encode_softsign,
)
from narrowgauge.kernels._group_numbers import group_scale
from narrowgauge.kernels._pure_codec import is_integer
from narrowgauge.kernels._scales_torch import inverse
from narrowgauge.kernels._scratch_torch import Scratch, Stretch
from narrowgauge.kernels._steady_torch import exp2
from narrowgauge.kernels._tables_torch import decode_table, encode_by_table
from narrowgauge.kernels.moments import MOST_POWER, NAN_BITS, SMALLEST_MAGNITUDE, MomentCodec

# Tensors, because torch would make one of a Python integer in every call.
_SIGN_BIT = torch.tensor(-(2**31), dtype=torch.int32)
_HALF_SHIFT = torch.tensor(7, dtype=torch.int16)  # float16 has seven mantissa bits more than E4M3
_HALF_FIELD = torch.tensor(-(2**15) | (0x7F << 7), dtype=torch.int16)  # sign and the seven other bits of the code
_HALF_BIAS = 2.0**8  # float16's exponent bias exceeds E4M3's by 8


def decode_block(
    codec: MomentCodec, codes: Tensor, scale: Tensor | None, out: Tensor, scratch: Scratch,
    stretches: Sequence[Stretch] = (), root: Tensor | None = None,
) -> None:  # fmt: skip
    """Writes float32 moments to `out`, and their roots to `root`; of whitened moments, what is stored.

    codes, out: flat, whole groups (packed codes: their bytes); scale: [groups, columns]. stretches: what dithered
    moments draw, under the keys that wrote them. Overwrites the scratch's a, and u and half with it.
    """
    if scale is None:
        out.copy_(codes)
    elif codec.kind == "log":
        decode_log(codec, codes, scale, out, scratch, stretches, root)
        return
    else:
        _DECODERS[codec.kind](codec, codes, scale, out, scratch, stretches)
    if root is not None:
        torch.sqrt(out, out=root)


def encode_block(
    codec: MomentCodec, codes: Tensor, scale: Tensor | None, x: Tensor, scratch: Scratch,
    stretches: Sequence[Stretch] = (), inverse_root: Tensor | None = None,
) -> None:  # fmt: skip
    """Writes codes and scale of float32 moments x, which is scratch afterwards; to `inverse_root` 1 / sqrt(v̂), 0 where
    v̂ is 0. Shapes as in `decode_block`. Overwrites the scratch's a, b, g, u and half; inverse_root may be b."""
    if scale is None:
        if codec.draws:
            store_stochastic(x, codes, scratch, stretches)
        else:
            codes.copy_(x)
    else:
        high = _ENCODERS[codec.kind](codec, codes, scale, x, scratch, stretches, inverse_root)
        if not float(high.amax()) < torch.inf:
            _spoil(codec, codes, scale, ~torch.isfinite(high), inverse_root)
    if inverse_root is not None and codec.kind != "log":
        decode_block(codec, codes, scale, inverse_root, scratch, stretches)
        inverse_root.rsqrt_().nan_to_num_(nan=torch.nan, posinf=0.0)


def _spoil(codec: MomentCodec, codes: Tensor, scale: Tensor, groups: Tensor, inverse_root: Tensor | None) -> None:
    """Makes `groups` (bool [groups, 1]) read back as NaN."""
    byte = codec.zero_code if codec.per_byte == 1 else codec.zero_code * 0x11
    codes.view(scale.shape[0], -1).masked_fill_(groups, byte)
    if codec.kind == "log":
        scale.masked_fill_(groups, 0)
        scale[:, 1:].masked_fill_(groups, NAN_BITS)
    else:
        scale.masked_fill_(groups, torch.nan)
    if inverse_root is not None:
        _rows(inverse_root, codec).masked_fill_(groups, torch.nan)


def _rows(x: Tensor, codec: MomentCodec) -> Tensor:
    return x.view(-1, codec.group)


def _e4m3_values(codes: Tensor, out: Tensor, half: Tensor) -> None:
    """2^-8 times the values of finite E4M3 codes: the bits move into a float16, which the hardware converts."""
    moved = half[: codes.numel()]
    moved.copy_(codes.view(torch.int8)).bitwise_left_shift_(_HALF_SHIFT).bitwise_and_(_HALF_FIELD)
    out.copy_(moved.view(torch.float16))


def _take_signs(x: Tensor, magnitude: Tensor) -> None:
    """x becomes `magnitude` with the signs of x."""
    x.view(torch.int32).bitwise_and_(_SIGN_BIT).bitwise_or_(magnitude.view(torch.int32))


def _decode_linear(
    codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch, stretches: Sequence[Stretch]
) -> None:
    numbers = scale.float()
    if codec.format == "e4m3fn":
        _e4m3_values(codes, out, scratch.half)
        numbers = numbers * _HALF_BIAS
    elif is_integer(codec):
        out.copy_(narrow_codes(codec, codes, scratch.half))
    else:
        index = scratch.a[: out.numel()].view(torch.int32)
        index.copy_(narrow_codes(codec, codes, scratch.half).view(torch.uint8))
        torch.index_select(decode_table(codec.element, codes.device), 0, index, out=out)
    _rows(out, codec).mul_(numbers)


def _decode_root(
    codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch, stretches: Sequence[Stretch]
) -> None:
    _decode_linear(codec, codes, scale, out, scratch, stretches)
    out.mul_(out)


def _decode_expanded(
    codec: MomentCodec, codes: Tensor, scale: Tensor, out: Tensor, scratch: Scratch, stretches: Sequence[Stretch]
) -> None:
    _e4m3_values(codes, out, scratch.half)
    magnitude = out if codec.second else torch.abs(out, out=scratch.a[: out.numel()])
    amax, power = scale.split(1, dim=1)
    root = power.reciprocal()
    factor = exp2(root * log2(_HALF_BIAS / codec.largest)).mul_(amax)
    _rows(magnitude.log2_(), codec).mul_(root)
    _rows(magnitude.exp2_(), codec).mul_(factor)
    if not codec.second:
        _take_signs(out, magnitude)


def _magnitudes(x: Tensor, codec: MomentCodec, scratch: Scratch) -> Tensor:
    """|x|, [groups, group]; x itself for second moments."""
    return _rows(x if codec.second else torch.abs(x, out=scratch.a[: x.numel()]), codec)


def _floor_of_positives(x: Tensor, codec: MomentCodec, scratch: Scratch) -> Tensor:
    """The codes' smallest value where a second moment is positive, else 0: nothing positive may round to zero."""
    return torch.sign(x, out=scratch.b[: x.numel()].view(x.shape)).mul_(codec.smallest)


def _store(codec: MomentCodec, y: Tensor, codes: Tensor, scratch: Scratch) -> None:
    """Codes of float32 y, which lies in the range of the format; y is overwritten."""
    if codec.format == "e4m3fn":
        codes.view(torch.float8_e4m3fn).copy_(y)  # in range, where torch's cast is exact in every version
    elif is_integer(codec):
        store_codes(codec, y.round_(), codes, scratch)
    else:
        found = encode_by_table(y, codec.element)
        if codec.per_byte == 1:
            codes.copy_(found)
        else:
            store_codes(codec, found, codes, scratch)


def _encode_scaled(
    codec: MomentCodec, codes: Tensor, scale: Tensor, x: Tensor, scratch: Scratch, stretches: Sequence[Stretch],
    inverse_root: Tensor | None,
) -> Tensor:  # fmt: skip
    """The kinds linear and root; returns the largest magnitudes of the groups."""
    if codec.kind == "root":
        x.sqrt_()
    grouped, magnitude = _rows(x, codec), _magnitudes(x, codec, scratch)
    high = magnitude.amax(1, keepdim=True)
    factor = group_scale(high, codec)
    scale.copy_(factor)
    inverted = inverse(factor)
    floor = None
    if codec.second:
        low = magnitude.amin(1, keepdim=True)
        if not bool((low * inverted >= codec.reached).all()):
            floor = _floor_of_positives(grouped, codec, scratch)
    grouped.mul_(inverted)
    if floor is not None:
        torch.maximum(grouped, floor, out=grouped)
    x.clamp_(codec.lowest, codec.largest)
    _store(codec, x, codes, scratch)
    return high


def _encode_expanded(
    codec: MomentCodec, codes: Tensor, scale: Tensor, x: Tensor, scratch: Scratch, stretches: Sequence[Stretch],
    inverse_root: Tensor | None,
) -> Tensor:  # fmt: skip
    magnitude = _magnitudes(x, codec, scratch)
    high, low = magnitude.amax(1, keepdim=True), magnitude.amin(1, keepdim=True)
    largest = high
    if not float(low.amin()) >= SMALLEST_MAGNITUDE:
        high, low = _without_zeros(magnitude, high, scratch)
    steps = codec.power_steps
    power = torch.full_like(high, steps * codec.log2_range).div_(torch.div(high, low).log2_())
    power.floor_().div_(steps).clamp_(codec.least_power, MOST_POWER)
    torch.cat((high, power), dim=1, out=scale)
    floor = None
    if codec.second and not float(power.amin()) > codec.least_power:
        floor = _floor_of_positives(magnitude, codec, scratch)
    magnitude.mul_(high.reciprocal())
    magnitude.log2_().mul_(power)
    magnitude.exp2_().mul_(codec.largest)
    if floor is not None:
        torch.maximum(magnitude, floor, out=magnitude)
    if not codec.second:
        _take_signs(x, magnitude.view(-1))
    _store(codec, x, codes, scratch)
    return largest


def _without_zeros(magnitude: Tensor, high: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Makes magnitudes below SMALLEST_MAGNITUDE zero; returns each group's largest and smallest of the others, and
    1 and 1 where there are none."""
    torch.threshold(magnitude, LARGEST_SUBNORMAL, 0.0, out=magnitude)
    occupied = high >= SMALLEST_MAGNITUDE
    positive = scratch.b[: magnitude.numel()].view(magnitude.shape)
    low = torch.threshold(magnitude, 0.0, torch.inf, out=positive).amin(1, keepdim=True)
    return torch.where(occupied, high, 1.0), torch.where(occupied, low, 1.0)


_Decoder = Callable[[MomentCodec, Tensor, Tensor, Tensor, Scratch, Sequence[Stretch]], None]
_DECODERS: dict[str, _Decoder] = {
    "linear": _decode_linear,
    "root": _decode_root,
    "expanded": _decode_expanded,
    "softsign": decode_softsign,
}
_Encoder = Callable[[MomentCodec, Tensor, Tensor, Tensor, Scratch, Sequence[Stretch], Tensor | None], Tensor]
_ENCODERS: dict[str, _Encoder] = {
    "linear": _encode_scaled,
    "root": _encode_scaled,
    "expanded": _encode_expanded,
    "softsign": encode_softsign,
    "log": encode_log,
}
