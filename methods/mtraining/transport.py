"""How the processes of a ring hand tensors on: real ones through torch.distributed, or threads of this process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

R = TypeVar("R")
SECONDS = 60
"""How long a thread waits for another before it gives up."""


class Pending(Protocol):
    """A hop that has begun."""

    def wait(self) -> list[Tensor]:
        """What arrived."""
        ...


class Transport(Protocol):
    """``rank`` of ``world``. Every rank makes the same calls in the same order."""

    rank: int
    world: int

    def start(self, tensors: Sequence[Tensor], to: int, source: int) -> Pending:
        """Begin to send ``tensors`` to a rank, and to receive as many of the same shapes and dtypes from another."""
        ...

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """That of every rank, by rank; all of one shape."""
        ...


class _Arrived:
    """A hop to oneself."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)

    def wait(self) -> list[Tensor]:
        return self._tensors


class ProcessTransport:
    """The processes of a ``torch.distributed`` group with gloo (``None``: all)."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self._tag = 0

    def start(self, tensors: Sequence[Tensor], to: int, source: int) -> Pending:
        """Without blocking; each tensor has a tag of its own, so that hops under way are not mixed up."""
        if to == source == self.rank:
            return _Arrived(tensors)
        sent = [tensor.contiguous() for tensor in tensors]
        received = [torch.empty_like(tensor) for tensor in sent]
        works = []
        for out, into in zip(sent, received, strict=True):
            works.append(dist.isend(out, group=self._group, tag=self._tag, group_dst=to))
            works.append(dist.irecv(into, group=self._group, tag=self._tag, group_src=source))
            self._tag += 1
        return _Hop(works, sent, received)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """``all_gather``."""
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.world)]
        dist.all_gather(parts, tensor.contiguous(), group=self._group)
        return parts


class _Hop:
    def __init__(self, works: Sequence[dist.Work | None], sent: list[Tensor], received: list[Tensor]) -> None:
        self._works, self._received = works, received
        self._sent = sent  # not to be freed before it is on its way

    def wait(self) -> list[Tensor]:
        for work in self._works:
            if work is not None:
                work.wait()
        return self._received


Box = queue.Queue[list[Tensor] | None]
Boxes = dict[tuple[int, int], Box]
"""By (from, to), what is under way; ``None`` from a rank that failed."""


class ThreadTransport:
    """One of the threads that :func:`run_threads` starts."""

    def __init__(self, rank: int, world: int, boxes: Boxes) -> None:
        self.rank, self.world, self._boxes = rank, world, boxes

    def start(self, tensors: Sequence[Tensor], to: int, source: int) -> Pending:
        """Copies, as a process would receive them."""
        self._boxes[self.rank, to].put([tensor.detach().clone() for tensor in tensors])
        return _Awaited(self._boxes[source, self.rank])

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """One hop to every rank."""
        hops = [
            self.start([tensor], (self.rank + away) % self.world, (self.rank - away) % self.world)
            for away in range(self.world)
        ]
        parts = [hop.wait()[0] for hop in hops]
        return [parts[(self.rank - rank) % self.world] for rank in range(self.world)]


class _Awaited:
    def __init__(self, box: Box) -> None:
        self._box = box

    def wait(self) -> list[Tensor]:
        arrived = self._box.get(timeout=SECONDS)
        if arrived is None:
            raise RuntimeError("another rank failed")
        return arrived


def run_threads(world: int, body: Callable[[Transport], R]) -> list[R]:
    """What ``body(transport)`` returns for each of ``world`` ranks, each in a thread; the first error is raised.

    For trying a ring, and testing it, without starting processes.
    """
    boxes: Boxes = {(source, to): queue.Queue() for source in range(world) for to in range(world)}
    results: list[Any] = [None] * world
    errors: list[BaseException] = []

    def main(rank: int) -> None:
        try:
            results[rank] = body(ThreadTransport(rank, world, boxes))
        except BaseException as error:
            errors.append(error)
            for to in range(world):
                boxes[rank, to].put(None)

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
