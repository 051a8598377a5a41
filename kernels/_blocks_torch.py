"""How many tensors are cut into blocks for a CPU's caches: large ones in place, small ones and ends gathered.

A block is a whole number of groups. A piece that ends within a group is followed by padding, which repeats its last
element once the update is made (0 for a whitened moment): no statistic of a group sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.kernels._scratch_torch import Scratch, Stretch
from narrowgauge.kernels.moments import MomentCodec
from narrowgauge.kernels.step_rules import Row

Codecs = tuple[MomentCodec | None, MomentCodec | None]


class Lists(NamedTuple):
    """The op's tensors, flat; empty lists for what there is not."""

    p: Sequence[Tensor]
    g: Sequence[Tensor]
    m: Sequence[Tensor]
    m_scale: Sequence[Tensor]
    v: Sequence[Tensor]
    v_scale: Sequence[Tensor]
    residual: Sequence[Tensor]


class Views(NamedTuple):
    """The same of one block; None for what there is not, as p and g where moments alone are read or written."""

    p: Tensor
    g: Tensor
    m: Tensor | None
    m_scale: Tensor | None
    v: Tensor | None
    v_scale: Tensor | None
    residual: Tensor | None


class Piece(NamedTuple):
    """Elements start to start + length of a tensor."""

    tensor: int
    start: int
    length: int


class Units(NamedTuple):
    """How many elements share an entry of each of `Lists`' tensors: 1, a packed byte's, or a group's."""

    p: int
    g: int
    m: int
    m_scale: int
    v: int
    v_scale: int
    residual: int


def units_of(first: MomentCodec | None, second: MomentCodec | None) -> Units:
    m, v = ((codec.per_byte, codec.group) if codec else (1, 1) for codec in (first, second))
    return Units(1, 1, *m, *v, 1)


class Block(NamedTuple):
    """Operands of one call. size: in elements. row: the numbers that all pieces share. places: where each piece begins.
    padding: places of padding and of what each repeats, None where there is none."""

    views: Views
    size: int
    row: Row
    pieces: Sequence[Piece]
    places: Sequence[int]
    padding: tuple[Tensor, Tensor] | None = None

    def stretches(self, rows: Sequence[Row], key: str) -> list[Stretch]:
        """What the elements draw under a key of their rows, by the key's name."""
        stretches = []
        for (tensor, start, length), place in zip(self.pieces, self.places, strict=True):
            row = rows[tensor]
            stretches.append(Stretch(place, length, int(row.offset) + start, int(getattr(row, key))))
        return stretches


def view_piece(lists: Lists, piece: Piece, units: Units) -> Views:
    """The stored entries of a piece, which begins a group."""
    start, stop = piece.start, piece.start + piece.length
    views: list[Any] = [
        tensors[piece.tensor][start // unit : -(-stop // unit)] if tensors else None
        for tensors, unit in zip(lists, units, strict=True)
    ]
    return Views(*views)


def _split(index: int, total: int, offset: int, chunk: int, least: int, group: int) -> Iterator[tuple[Piece, bool]]:
    """Parts of at most `chunk` elements, and whether a part is large enough, and whole, to be updated in place. Where
    groups allow, parts begin at multiples of `chunk` of the whole parameter: the table of draws has no end in them."""
    start = 0
    ahead = offset % chunk if offset % group == 0 else 0
    while start < total:
        count = min(chunk - ahead, total - start)
        ahead = 0
        whole = count - count % group
        if whole < least:
            whole = 0
        else:
            yield Piece(index, start, whole), True
        if whole < count:
            yield Piece(index, start + whole, count - whole), False
        start += count


def blocks(
    counts: Sequence[int], lists: Lists, rows: Sequence[Row], codecs: Codecs, chunk: int, least: int, scratch: Scratch
) -> Iterator[Block]:
    """Every element of every tensor (of `counts` elements) once, in blocks of at most `chunk` elements, a multiple of
    every group.

    least: parts with fewer elements are gathered, in `scratch` or memory of their own, and scattered when the caller
    asks for the next block.
    """
    units = units_of(*codecs)
    group = max(2, *units)
    gathered: dict[tuple[object, ...], list[Piece]] = {}
    for index, count in enumerate(counts):
        row = rows[index]
        for piece, in_place in _split(index, count, int(row.offset), chunk, least, group):
            if in_place:
                yield Block(view_piece(lists, piece, units), piece.length, row, [piece], [0])
            else:
                dtypes = tuple(tensors[index].dtype for tensors in lists[:2] if tensors)
                key = (*dtypes, *row[: Row._fields.index("first_key")])
                gathered.setdefault(key, []).append(piece)
    for pieces in gathered.values():
        for batch in _batches(pieces, chunk, group):
            row = rows[batch[0].tensor]
            if len(batch) == 1 and batch[0].length % group == 0:
                yield Block(view_piece(lists, batch[0], units), batch[0].length, row, batch, [0])
            else:
                yield from _gathered(lists, row, codecs, batch, group, scratch)


def _padded(count: int, group: int) -> int:
    return -(-count // group) * group


def _batches(pieces: Sequence[Piece], chunk: int, group: int) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    room = chunk
    for piece in pieces:
        size = _padded(piece.length, group)
        if size > room and batch:
            yield batch
            batch, room = [], chunk
        batch.append(piece)
        room -= size
    if batch:
        yield batch


def _gathered(
    lists: Lists, row: Row, codecs: Codecs, pieces: Sequence[Piece], group: int, scratch: Scratch
) -> Iterator[Block]:
    units = units_of(*codecs)
    sizes = [_padded(piece.length, group) for piece in pieces]
    places = list(accumulate(sizes, initial=0))
    total = places.pop()
    homes = [view_piece(lists, piece, units) for piece in pieces]
    buffers: list[Any] = []
    copies = {}
    for field, (name, unit) in enumerate(zip(Units._fields, units, strict=True)):
        home = homes[0][field]
        if home is None:
            buffers.append(None)
            continue
        buffer = _buffer(name, home, total // unit, scratch)
        lengths = []
        for piece, size in zip(pieces, sizes, strict=True):
            used = -(-piece.length // unit)
            lengths += [used, size // unit - used]
        buffers.append(buffer)
        stored: list[Any] = [home[field] for home in homes]
        copies[name] = list(buffer.split(lengths)[::2]), stored
    for parts, stored in copies.values():
        torch._foreach_copy_(parts, stored)
    yield Block(Views(*buffers), total, row, pieces, places, _padding(pieces, places, sizes))
    for codec, codes in zip(codecs, (buffers[2], buffers[4]), strict=True):
        if codec is not None and codes is not None and codec.per_byte > 1:
            _fill_last_bytes(codes, codec, pieces, places)
    for name, (parts, stored) in copies.items():
        if name != "g":
            torch._foreach_copy_(stored, parts)


def _buffer(name: str, like: Tensor, size: int, scratch: Scratch) -> Tensor:
    """Memory for `size` entries: what float32 operands have in the scratch, else new."""
    if like.dtype is torch.float32 and not name.endswith("scale"):
        own: Tensor = getattr(scratch, name)
        return own[:size]
    return torch.empty((size, *like.shape[1:]), dtype=like.dtype)


def _padding(pieces: Sequence[Piece], places: Sequence[int], sizes: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    ends = [
        (place + piece.length, place + size)
        for piece, place, size in zip(pieces, places, sizes, strict=True)
        if piece.length < size
    ]
    if not ends:
        return None
    starts, stops = torch.tensor(ends).unbind(1)
    lengths = stops - starts
    first = torch.repeat_interleave(starts, lengths)
    before = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return first + (torch.arange(len(first)) - before), first - 1


def _fill_last_bytes(codes: Tensor, codec: MomentCodec, pieces: Sequence[Piece], places: Sequence[int]) -> None:
    """Makes the code that a last byte has too many that of zero."""
    odd = [(place + piece.length) // 2 for piece, place in zip(pieces, places, strict=True) if piece.length % 2]
    if odd:
        index = torch.tensor(odd)
        codes[index] = (codes[index] & 15) | (codec.zero_code << 4)
