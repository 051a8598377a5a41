"""Codes of stored moments from and to float32 on a CPU: bytes, pairs of 4-bit codes, and bfloat16 by random bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from narrowgauge.kernels._pure_codec import is_signed
from narrowgauge.kernels._scratch_torch import Scratch, Stretch
from narrowgauge.kernels.moments import MomentCodec

# Tensors, because torch would make one of a Python integer in every call.
_FOUR = torch.tensor(4, dtype=torch.int16)
_NIBBLES = torch.tensor(0x0F0F, dtype=torch.int16)
_KEPT = torch.tensor(-0x10000, dtype=torch.int32)
_CENTRE = torch.tensor(0x8000, dtype=torch.int32)


def narrow_codes(codec: MomentCodec, codes: Tensor, memory: Tensor) -> Tensor:
    """The codes as uint8 or int8, one a byte: themselves, or unpacked in `memory` (int16, twice as many as bytes)."""
    if codec.per_byte == 1:
        return codes
    half = codes.numel()
    pairs, other = memory[: 2 * half].split(half)
    pairs.copy_(codes)
    pairs.bitwise_or_(torch.bitwise_left_shift(pairs, _FOUR, out=other)).bitwise_and_(_NIBBLES)
    if is_signed(codec):
        return pairs.view(torch.int8).bitwise_xor_(8).sub_(8)
    return pairs.view(torch.uint8)


def pack_codes(narrow: Tensor, codes: Tensor, other: Tensor) -> None:
    """Writes bytes of the codes in `narrow`, one a byte, which is scratch afterwards, as `other` is (int16)."""
    pairs = narrow.view(torch.int16).bitwise_and_(_NIBBLES)
    codes.copy_(pairs.bitwise_or_(torch.bitwise_right_shift(pairs, _FOUR, out=other[: codes.numel()])))


def store_codes(codec: MomentCodec, values: Tensor, codes: Tensor, scratch: Scratch) -> None:
    """Writes codes, given as integers of float32; `values` and the scratch's half and, for uint8, b are overwritten."""
    if codec.per_byte > 1:
        count = values.numel()
        narrow, other = scratch.half[:count].split(count // 2)
        pack_codes(narrow.view(torch.int8).copy_(values), codes, other)
    elif codes.dtype is torch.uint8:
        # By way of int32, which the conversions of the hardware know.
        codes.copy_(scratch.b[: values.numel()].view(torch.int32).copy_(values))
    else:
        codes.copy_(values)


def store_stochastic(x: Tensor, narrow: Tensor, scratch: Scratch, stretches: Sequence[Stretch]) -> None:
    """Writes float32 x, which is scratch afterwards, to the bfloat16 tensor `narrow`: away from zero where the bits
    that are lost and the random ones carry. Overwrites the scratch's u and half."""
    random = scratch.draw_bits(stretches, x.numel())
    x.nan_to_num_(nan=torch.nan, posinf=torch.inf, neginf=-torch.inf)  # other NaN could carry into the sign
    x.view(torch.int32).add_(random).add_(_CENTRE).bitwise_and_(_KEPT)
    narrow.copy_(x)
