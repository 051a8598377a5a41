"""Stored moments of a whole tensor, on any device: for update rules that are not elementwise, and for reading states.

The fused step (kernels/optimizer_step.py) reads and writes the same codes and numbers, on the CPU by the same
functions; the kinds that need the whole tensor, rank-1 and quantile, exist here alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.kernels._blocks_torch import Block, Lists, blocks
from narrowgauge.kernels._moments_anywhere import decode_stored, encode_stored
from narrowgauge.kernels._moments_whole import decode_whole, encode_whole
from narrowgauge.kernels._pair_torch import BlockMoments
from narrowgauge.kernels._scratch_torch import Scratch
from narrowgauge.kernels.moments import LARGEST_GROUP, MomentCodec
from narrowgauge.kernels.step_rules import Row

CHUNK_ELEMENTS = 1 << 17
"""Elements decoded or encoded at a time, which bounds the temporaries."""
NO_NUMBERS = Row(1.0, *(0.0 for _ in Row._fields[1:]))


class Stored(NamedTuple):
    """codes and numbers of one moment (kernels/moments.py), as `empty_moment` makes them; scale: None for `plain`."""

    codes: Tensor
    scale: Tensor | None


def read_moments(
    first: MomentCodec | None, second: MomentCodec | None, m: Stored | None, v: Stored | None, shape: torch.Size,
    keys: tuple[int, int] = (0, 0), offset: int = 0,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """m and v as they read back, float32 of `shape`; None where there is no codec.

    keys: of the step that wrote m and v, for dithered codecs. offset: place of the tensor's first element in the whole
    parameter, even. ValueError for a whitened first moment without the second.
    """
    _check(first, second)
    shape = torch.Size(shape)
    if second is None or second.fused:
        return _read_fused(first, second, m, v, shape, keys, offset)
    if v is None or v.scale is None:
        raise ValueError("v: expected codes and numbers of the second moment, got none")
    wide_v = decode_whole(second, v.codes, v.scale, shape)
    wide_m, _ = _read_fused(_alone(first), None, m, None, shape, keys, offset)
    if first is not None and first.whitened and wide_m is not None:
        wide_m.mul_(wide_v.sqrt())
    return wide_m, wide_v


def write_moments(
    first: MomentCodec | None, second: MomentCodec | None, m: Tensor | None, v: Tensor | None,
    into_m: Stored | None, into_v: Stored | None, keys: tuple[int, int] = (0, 0), offset: int = 0,
) -> None:  # fmt: skip
    """Stores float32 m and v (any strides) into the tensors of `into_m` and `into_v`, all of them None where there is
    no codec. Arguments as in `read_moments`, `keys` those of this step."""
    _check(first, second)
    if second is None or second.fused:
        _write_fused(first, second, m, v, into_m, into_v, keys, offset)
        return
    if v is None or into_v is None or into_v.scale is None:
        raise ValueError("v: expected a second moment and where to store it, got none")
    encode_whole(second, v, v.shape, into_v.codes, into_v.scale, keys[1], offset)
    if first is not None and first.whitened and m is not None:
        m = _whitened(m, decode_whole(second, into_v.codes, into_v.scale, v.shape))
    _write_fused(_alone(first), None, m, None, into_m, None, keys, offset)


def _check(first: MomentCodec | None, second: MomentCodec | None) -> None:
    if first is not None and first.whitened and second is None:
        raise ValueError("first: this codec stores m relative to v, which there is none of; accepted: lone_moment(…)")


def _alone(first: MomentCodec | None) -> MomentCodec | None:
    return None if first is None else first._replace(whitened=False)


def _whitened(m: Tensor, v: Tensor) -> Tensor:
    return torch.where(v == 0, 0.0, m / v.sqrt())


def _read_fused(
    first: MomentCodec | None, second: MomentCodec | None, m: Stored | None, v: Stored | None, shape: torch.Size,
    keys: tuple[int, int], offset: int,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    given = m if v is None else v
    if given is None:
        return None, None
    count, device = shape.numel(), given.codes.device
    wide_m = wide_v = None
    if device.type != "cpu":
        if second is not None and v is not None:
            wide_v = decode_stored(second, v.codes, v.scale, count, keys[1], offset)
        if first is not None and m is not None:
            wide_m = decode_stored(first, m.codes, m.scale, count, keys[0], offset)
            if first.whitened and wide_v is not None:
                wide_m.mul_(wide_v.sqrt())
    else:
        wide_m, wide_v = (None if stored is None else torch.empty(count) for stored in (m, v))
        row = NO_NUMBERS._replace(read_first_key=keys[0], read_second_key=keys[1], offset=offset)
        moments, parts = _blocks(first, second, m, v, row, count)
        for block in parts:
            for whole, part in zip((wide_m, wide_v), moments.read(block), strict=True):
                if whole is not None:
                    for (_, start, length), place in zip(block.pieces, block.places, strict=True):
                        whole[start : start + length].copy_(part[place : place + length])
    return None if wide_m is None else wide_m.view(shape), None if wide_v is None else wide_v.view(shape)


def _write_fused(
    first: MomentCodec | None, second: MomentCodec | None, m: Tensor | None, v: Tensor | None,
    into_m: Stored | None, into_v: Stored | None, keys: tuple[int, int], offset: int,
) -> None:  # fmt: skip
    given = m if v is None else v
    if given is None:
        return
    flat_m, flat_v = (None if x is None else x.reshape(-1) for x in (m, v))
    if given.device.type != "cpu":
        if second is not None and flat_v is not None and into_v is not None:
            encode_stored(second, flat_v, *into_v, keys[1], offset)
            if first is not None and first.whitened and flat_m is not None:
                flat_m = _whitened(flat_m, decode_stored(second, *into_v, flat_v.numel(), keys[1], offset))
        if first is not None and flat_m is not None and into_m is not None:
            encode_stored(first, flat_m, *into_m, keys[0], offset)
        return
    row = NO_NUMBERS._replace(first_key=keys[0], second_key=keys[1], offset=offset)
    moments, parts = _blocks(first, second, into_m, into_v, row, given.numel())
    for block in parts:
        scratch = moments.scratch
        wide = [memory[: block.size] for memory in (scratch.m, scratch.v)]
        for whole, part in zip((flat_m, flat_v), wide, strict=True):
            if whole is not None:
                for (_, start, length), place in zip(block.pieces, block.places, strict=True):
                    part[place : place + length].copy_(whole[start : start + length])
        moments.pad(block, *wide)
        moments.write(block, *wide)


def _blocks(
    first: MomentCodec | None, second: MomentCodec | None, m: Stored | None, v: Stored | None, row: Row, count: int
) -> tuple[BlockMoments, Iterator[Block]]:
    scratch = Scratch(min(CHUNK_ELEMENTS, count + LARGEST_GROUP))
    lists = Lists([], [], *_lists(m), *_lists(v), [])
    parts = blocks([count], lists, [row], (first, second), CHUNK_ELEMENTS, 1, scratch)
    return BlockMoments(first, second, [row], scratch), parts


def _lists(stored: Stored | None) -> tuple[list[Tensor], list[Tensor]]:
    """Codes and numbers as the op has them for one tensor."""
    if stored is None:
        return [], []
    return [stored.codes.view(-1)], [] if stored.scale is None else [stored.scale]
