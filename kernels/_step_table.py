"""What a launch over many tensors reads first: where each tensor lies, and which tensor each program serves.

Addresses are int64 [tensors, FIELDS]; programs find theirs in an int32 map with one entry a program: one read, where a
search over the tensors' first programs would be a chain of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

import torch
from torch import Tensor


class Entry(NamedTuple):
    """A tensor of a launch: addresses (0 where there is none), elements, first program, row of the op's `rows`."""

    p: int
    g: int
    m: int
    m_scale: int
    v: int
    v_scale: int
    residual: int
    elements: int
    first: int
    row: int


FIELDS = len(Entry._fields)
WIDEST = 16
"""Bytes of the widest access by one thread."""
MOST_TABLES = 64

_tables: OrderedDict[object, tuple[Tensor, Tensor]] = OrderedDict()
"""What was copied lately, and its pinned source."""
_captured: list[tuple[Tensor, Tensor]] = []
"""What captured graphs read or copy; nothing tells when a graph goes, so it stays."""


def grouped(
    lists: Sequence[Sequence[Tensor]], span: int
) -> Iterator[tuple[tuple[torch.dtype, torch.dtype, bool], list[Entry], list[int]]]:
    """((dtype of p, of g, whether aligned), entries, programs of `span` elements for each) of the launches that tensors
    need. lists: p, g, m, m_scale, v, v_scale, residual, flat; empty for what there is not.

    Aligned tensors may be accessed by WIDEST everywhere but at their ends: so are their addresses and sizes.
    """
    p, g = lists[:2]
    columns = [[t.data_ptr() for t in tensors] if tensors else [0] * len(p) for tensors in lists]
    groups: dict[tuple[torch.dtype, torch.dtype, bool], tuple[list[Entry], list[int]]] = {}
    for index, numbers in enumerate(zip(*columns, (t.numel() for t in p), strict=True)):
        elements = numbers[-1]
        if elements:
            key = p[index].dtype, g[index].dtype, reduce(or_, numbers) % WIDEST == 0
            entries, programs = groups.setdefault(key, ([], []))
            first = entries[-1].first + programs[-1] if entries else 0
            entries.append(Entry._make((*numbers, first, index)))
            programs.append(-(-elements // span))
    for key, (entries, programs) in groups.items():
        yield key, entries, programs


def tables(entries: Sequence[Entry], programs: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """(addresses, map) on `device`; programs: how many serve each tensor. Copied once while both stay the same."""
    owners = torch.arange(len(entries), dtype=torch.int32)
    return (
        _resident(tuple(entries), lambda: torch.tensor(entries, dtype=torch.int64), device),
        _resident(tuple(programs), lambda: owners.repeat_interleave(torch.tensor(programs)), device),
    )


def rows_on(rows: Tensor, device: torch.device) -> Tensor:
    """`rows` on `device`, by a copy that the host does not wait for. RuntimeError under capture unless they are there:
    the graph would repeat one step for ever."""
    if rows.device == device:
        return rows.contiguous()
    if _is_capturing(device):
        raise RuntimeError(f"rows: expected on {device} while a CUDA graph is captured, got {rows.device}")
    return _copied(rows, device)[1]


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _copied(host: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """(pinned source, its copy on `device`), which the host does not wait for; itself twice on the CPU."""
    if device.type == "cpu":
        return host, host
    pinned = host.pin_memory()
    return pinned, pinned.to(device, non_blocking=True)


def _resident(numbers: tuple[object, ...], make: Callable[[], Tensor], device: torch.device) -> Tensor:
    key = device, numbers
    capturing = _is_capturing(device)
    found = _tables.get(key)
    if found is None:
        found = _copied(make(), device)
    if capturing:
        # A copy that was recorded is made when the graph runs, so later calls must not find it.
        _captured.append(found)
    else:
        _tables[key] = found
        _tables.move_to_end(key)
        while len(_tables) > MOST_TABLES:
            _tables.popitem(last=False)
    return found[1]
