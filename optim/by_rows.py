"""Stored moments in a form that can be cut between any two rows of the parameter, as shards of it are.

In memory the groups of a shard begin at its first element (optim/codec.py). Cut by rows they are, where groups end with
rows,

    exp_avg           codes or values, of the parameter's shape; packed codes [rows, bytes of a row]
    exp_avg_scale     [rows, groups of a row, columns], the groups' numbers

views of what is in memory, which lose nothing however they are cut. Elsewhere (vectors, matrices narrower than a group)

    exp_avg           codes, of the parameter's shape, not packed
    exp_avg_scale     [rows, 1, ...]: the row's place in the shard that wrote it, in digits, then the numbers of all
                      groups that a row can touch; of rank-1 codes the row's number and those of all its shard's columns

which read back exactly where they are cut as they were when they were written; else what they read back as is encoded
anew, with the groups of the new shard. Numbers of int16, which collectives do not know, are bytes in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.kernels.moments import MomentCodec, empty_moment
from narrowgauge.kernels.packing import pack, unpack
from narrowgauge.kernels.stored_moments import Stored, read_moments
from narrowgauge.optim.codec import Moments, State


class Layout(NamedTuple):
    """Of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class _Digits(NamedTuple):
    """How a place is written in numbers of a dtype: so many digits of so many bits, exact in it."""

    number: int
    bits: int


_DIGITS = {torch.float32: _Digits(2, 15), torch.bfloat16: _Digits(4, 8), torch.uint8: _Digits(4, 8)}


def ends_with_rows(codec: MomentCodec, shape: torch.Size) -> bool:
    """Whether every group (if there are groups) of a parameter of `shape` lies in one row."""
    return not codec.columns or (not _has_columns(codec, shape) and _row(shape) % codec.group == 0)


def cut_groups(moments: Moments, shape: torch.Size) -> bool:
    """Whether the groups of a parameter of `shape` depend on how it is cut."""
    return not all(ends_with_rows(codec, shape) for _, codec in moments.present)


def row_layout(moments: Moments, shape: torch.Size) -> dict[str, Layout]:
    """Name → layout of the tensors of `by_rows`."""
    row, layout = _row(shape), {}
    for key, codec in moments.present:
        aligned, dtype = ends_with_rows(codec, shape), _numbers_dtype(codec)
        packed = codec.per_byte > 1 and aligned
        layout[key] = Layout((shape[0], row // codec.per_byte) if packed else tuple(shape), codec.dtype)
        width = codec.columns * codec.torch_scale_dtype.itemsize // dtype.itemsize
        if codec.columns and aligned:
            layout[f"{key}_scale"] = Layout((shape[0], row // codec.group, width), dtype)
        elif codec.columns:
            numbers = 1 + row if _has_columns(codec, shape) else _touched(codec, row) * width
            layout[f"{key}_scale"] = Layout((shape[0], 1, _DIGITS[dtype].number + numbers), dtype)
    return layout


def by_rows(state: Mapping[str, Tensor], moments: Moments, shape: torch.Size) -> State:
    """The moments of a state in memory, of a shard (or a whole parameter) of `shape`, by rows."""
    layout, result = row_layout(moments, shape), State()
    for key, codec in moments.present:
        aligned, name = ends_with_rows(codec, shape), f"{key}_scale"
        codes = state[key] if aligned else _flat_codes(codec, state[key], shape, True)
        result[key] = codes.view(layout[key].shape)
        if codec.columns:
            numbers = state[name].view(_numbers_dtype(codec))
            result[name] = (numbers if aligned else _with_places(codec, numbers, shape)).view(layout[name].shape)
    return result


def is_intact(rows: Mapping[str, Tensor], moments: Moments, shape: torch.Size) -> bool:
    """Whether a shard of `shape` by rows begins where the one that wrote it did, and does not reach farther."""
    place = _place(rows, moments, shape)
    return place is None or torch.equal(place, torch.arange(len(place), device=place.device))


def in_memory(rows: Mapping[str, Tensor], moments: Moments, shape: torch.Size) -> State:
    """The moments of a shard of `shape` that is intact as they are in memory, exactly."""
    state = State()
    for key, codec in moments.present:
        flat = rows[key].reshape(-1)
        codes = flat if ends_with_rows(codec, shape) else _stored_codes(codec, flat)
        state[key] = codes.view(codec.codes_shape(shape))
        if codec.columns:
            state[f"{key}_scale"] = _scale(codec, rows[f"{key}_scale"], shape, 0)
    return state


def read_rows(
    rows: Mapping[str, Tensor], moments: Moments, shape: torch.Size, keys: tuple[int, int], first_row: int
) -> tuple[Tensor | None, Tensor | None]:
    """m and v, float32 of `shape`, that a shard by rows reads back as, whatever shards wrote its parts.

    keys: of the step that wrote them; first_row: of the shard in the whole parameter.
    """
    place = _place(rows, moments, shape)
    if place is None:
        place = torch.arange(shape[0])
    jumps = torch.nonzero(place[1:] != place[:-1] + 1).view(-1) + 1
    parts = []
    for start, stop in pairwise([0, *jumps.tolist(), shape[0]]):
        part = {key: value[start:stop] for key, value in rows.items()}
        local = torch.Size((stop - start, *shape[1:]))
        parts.append(_read_part(part, moments, local, keys, first_row + start, int(place[start]) if local[0] else 0))
    m, v = (torch.cat([part[index] for part in parts]) for index in (0, 1))
    return (None if moments.first is None else m), (None if moments.second is None else v)


def _read_part(
    rows: Mapping[str, Tensor], moments: Moments, shape: torch.Size, keys: tuple[int, int], first_row: int, place: int
) -> tuple[Tensor, Tensor]:
    """m and v of rows that one shard wrote, from its row `place` on; an empty tensor for one that there is not."""
    begin = (first_row - place) * _row(shape)
    offset = begin + begin % 2  # the shard's, as it drew (optim/local.py)
    read = []
    for name, codec, key in zip(moments.keys, (moments.first, moments.second), keys, strict=True):
        part = torch.empty(0) if codec is None else _read_one(codec, rows, name, shape, place, key, offset)
        read.append(part)
    m, v = read
    if moments.first is not None and moments.first.whitened:
        m = m * v.sqrt()
    return m, v


def _read_one(
    codec: MomentCodec, rows: Mapping[str, Tensor], name: str, shape: torch.Size, place: int, key: int, offset: int
) -> Tensor:
    """One moment, as it is stored (not whitened), of rows from `place` on of the shard that wrote them."""
    before = 0 if _has_columns(codec, shape) else place * _row(shape)
    missing = before % codec.group  # elements of the first group that are in other rows
    flat = _flat_codes(codec, rows[name], shape, ends_with_rows(codec, shape))
    flat = torch.nn.functional.pad(flat, (missing, 0), value=codec.zero_code)
    like = shape if _has_columns(codec, shape) else torch.Size((flat.numel(),))
    scale = _scale(codec, rows[f"{name}_scale"], shape, before) if codec.columns else None
    stored, at = Stored(_stored_codes(codec, flat), scale), offset + before - missing
    if codec.second:
        _, wide = read_moments(None, codec, None, stored, like, (key, key), at)
    else:
        wide, _ = read_moments(codec._replace(whitened=False), None, stored, None, like, (key, key), at)
    if wide is None:
        raise ValueError("codec: nothing was read")
    return wide.view(-1)[missing:].view(shape)


def _row(shape: torch.Size) -> int:
    return shape[1:].numel()


def _has_columns(codec: MomentCodec, shape: torch.Size) -> bool:
    """Whether the numbers are those of rows and columns instead of groups."""
    return codec.kind == "rank-1" and len(shape) > 1


def _touched(codec: MomentCodec, row: int) -> int:
    """Groups in which a row of so many elements can lie, wherever it begins."""
    return (codec.group - gcd(row, codec.group) + row - 1) // codec.group + 1


def _numbers_dtype(codec: MomentCodec) -> torch.dtype:
    dtype = codec.torch_scale_dtype
    return torch.uint8 if dtype is torch.int16 else dtype


def _flat_codes(codec: MomentCodec, codes: Tensor, shape: torch.Size, packed: bool) -> Tensor:
    """Codes or values, flat and unpacked. packed: where several fit into a byte, they are."""
    flat = codes.reshape(-1)
    return unpack(flat[None], codec.bits, shape.numel())[0] if packed and codec.per_byte > 1 else flat


def _stored_codes(codec: MomentCodec, flat: Tensor) -> Tensor:
    """Flat codes as they are in memory."""
    if codec.per_byte == 1:
        return flat.contiguous()
    whole = torch.nn.functional.pad(flat, (0, -flat.numel() % codec.per_byte), value=codec.zero_code)
    return pack(whole[None], codec.bits)[0]


def _with_places(codec: MomentCodec, numbers: Tensor, shape: torch.Size) -> Tensor:
    """[rows, digits and numbers] of the numbers in memory."""
    rows, digits = torch.arange(shape[0], device=numbers.device), _DIGITS[numbers.dtype]
    mask = (1 << digits.bits) - 1
    places = torch.stack([(rows >> digits.bits * index) & mask for index in range(digits.number)], dim=1)
    if _has_columns(codec, shape):
        own, columns = numbers[: len(rows), None], numbers[None, len(rows) :].expand(len(rows), -1)
    else:
        first = rows * _row(shape) // codec.group
        groups = first[:, None] + torch.arange(_touched(codec, _row(shape)), device=rows.device)
        own, columns = numbers[groups.clamp_(max=max(len(numbers) - 1, 0))].flatten(1), numbers.new_empty(len(rows), 0)
    return torch.cat((places.to(numbers.dtype), own, columns), dim=1)


def _place(rows: Mapping[str, Tensor], moments: Moments, shape: torch.Size) -> Tensor | None:
    """Every row's place in the shard that wrote it, int64; None where groups end with rows."""
    for key, codec in moments.present:
        if not ends_with_rows(codec, shape):
            numbers = rows[f"{key}_scale"][:, 0]
            digits = _DIGITS[numbers.dtype]
            written = numbers[:, : digits.number].to(torch.int64)
            return (written << torch.arange(digits.number, device=numbers.device) * digits.bits).sum(dim=1)
    return None


def _scale(codec: MomentCodec, numbers: Tensor, shape: torch.Size, before: int) -> Tensor:
    """The numbers in memory of the groups of rows in which `before` elements of their shard are before the first. A
    first group that begins before them is among them."""
    if ends_with_rows(codec, shape):
        return numbers.reshape(-1, numbers.shape[-1]).view(codec.torch_scale_dtype)
    if not shape.numel():
        scale = empty_moment(codec, torch.empty(shape, device=numbers.device))[1]
        if scale is not None:
            return scale
    numbers = numbers[:, 0, _DIGITS[numbers.dtype].number :]
    if _has_columns(codec, shape):
        return torch.cat((numbers[:, 0], numbers[0, 1:]))
    row, missing = _row(shape), before % codec.group
    by_group = numbers.unflatten(1, (_touched(codec, row), -1))
    group = torch.arange(-(-(missing + shape.numel()) // codec.group), device=numbers.device)
    member = (group * codec.group - missing).clamp_(min=0) // row  # a row that touches the group
    chosen = by_group[member, group + before // codec.group - (before + member * row) // codec.group]
    return chosen.contiguous().view(codec.torch_scale_dtype)
