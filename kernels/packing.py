"""Codes narrower than a byte as tensors of bytes, on any device, in the layout of `narrowgauge.formats.packing`.

A row is one string of bits, least significant first; code i is bits b · i … b · i + b - 1 of it, rows are padded with
zeros to whole bytes. Eight codes of b bits are one 64-bit word here, whose first b bytes are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats.packing import packed_nbytes

_GROUP = 8
CODE_DTYPES = (torch.uint8, torch.int8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 or int8 codes [..., n] of `bits` bits (1 to 8) as uint8 [..., packed_nbytes(n, bits)].

    Negative codes are stored in two's complement of `bits` bits. Raises TypeError for other dtypes, ValueError for
    other widths, scalars, and codes that do not fit the width.
    """
    _check(codes, bits, "codes", CODE_DTYPES)
    if codes.numel():
        low, high = int(codes.min()), int(codes.max())
        if low < -(2 ** (bits - 1)) or high >= 2 ** (bits - int(low < 0)):
            raise ValueError(f"codes: got values in [{low}, {high}], accepted: numbers of {bits} bits")
    if bits == 8:
        return codes.contiguous().view(torch.uint8).clone()
    count = codes.shape[-1]
    padded = torch.nn.functional.pad(codes.to(torch.int64) & (2**bits - 1), (0, -count % _GROUP))
    words = padded.unflatten(-1, (-1, _GROUP)) << _shifts(bits, codes.device)
    whole = words.sum(-1, keepdim=True).view(torch.uint8)[..., :bits]
    return whole.flatten(-2)[..., : packed_nbytes(count, bits)].contiguous()


def unpack(packed: Tensor, bits: int, count: int, signed: bool = False) -> Tensor:
    """The `count` codes of each row of `packed`, uint8 [..., packed_nbytes(count, bits)], as uint8 [..., count], or as
    int8 where `signed`. Raises TypeError unless `packed` is uint8, ValueError for another number of bytes in a row."""
    _check(packed, bits, "packed", (torch.uint8,))
    expected = packed_nbytes(count, bits)
    if packed.shape[-1] != expected:
        raise ValueError(
            f"packed: got {packed.shape[-1]} bytes in a row, accepted for {count} codes of {bits} bits: {expected}"
        )
    groups = -(-count // _GROUP)
    padded = torch.nn.functional.pad(packed, (0, groups * bits - expected)).unflatten(-1, (groups, bits))
    words = torch.nn.functional.pad(padded, (0, _GROUP - bits)).contiguous().view(torch.int64)
    codes = ((words >> _shifts(bits, packed.device)) & (2**bits - 1)).flatten(-2)[..., :count]
    if signed:
        codes = torch.where(codes >= 2 ** (bits - 1), codes - 2**bits, codes)
    return codes.to(torch.int8 if signed else torch.uint8)


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(_GROUP, device=device) * bits


def _check(tensor: Tensor, bits: int, name: str, dtypes: tuple[torch.dtype, ...]) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits: got {bits}, accepted: 1 to 8")
    if tensor.dtype not in dtypes:
        accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name}: got dtype {str(tensor.dtype).removeprefix('torch.')}, accepted: {accepted}")
    if tensor.dim() == 0:
        raise ValueError(f"{name}: got a scalar, accepted: tensors of at least one axis, the last of which is packed")
