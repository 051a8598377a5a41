"""Results that nobody computed are made visible: uninitialised memory is filled with NaN while a function is checked.

Whoever takes memory by torch.empty and forgets to write a part of it returns NaN there (in integers, the largest
number), and not by chance what an earlier, right result has left. A function that hands out the same memory again, or
its operands, is named as well: its results would change under the hands of those who keep them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

FREED_BLOCKS = 4


class WrongResult(AssertionError):
    """What a function returned is not what it should be; the text says how."""


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Inside, torch fills new uninitialised tensors: floats with NaN, integers with their largest value.

    torch does so in deterministic mode, in which it may choose other algorithms than outside; operators that have none
    work on as they are.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def poison_freed(nbytes: int, device: torch.device | str) -> None:
    """Leaves freed blocks of this size filled with NaN, which the allocator hands out again to whoever asks next."""
    blocks = [torch.full((nbytes,), 0xFF, dtype=torch.uint8, device=device) for _ in range(FREED_BLOCKS)]
    del blocks


class Guard:
    """Remembers tensors, so that whoever writes one is found out."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def remember(self, tensors: Sequence[Tensor]) -> None:
        """Keeps a copy of each that is not known yet."""
        for tensor in tensors:
            if id(tensor) not in self._kept:
                self._kept[id(tensor)] = tensor, tensor.clone()

    def verify(self, tensors: Sequence[Tensor]) -> None:
        """WrongResult where one of these is not what it was; it is again afterwards."""
        for tensor in tensors:
            _, copy = self._kept[id(tensor)]
            if not torch.equal(_bytes(tensor), _bytes(copy)):
                tensor.copy_(copy)
                raise WrongResult("overwrote an operand")


def checked_call(
    call: Callable[[], Tensor],
    held: Sequence[Tensor],
    shape: Sequence[int],
    dtypes: Sequence[torch.dtype],
    guard: Guard,
) -> Tensor:
    """What `call` returns, called twice. `held`: its operands, which it has to leave as they are.

    WrongResult where it returns anything but a tensor of the shape and of one of the dtypes on the operands' device,
    the memory of an operand or of its previous result, or changes an operand.
    """
    guard.remember(held)
    first, second = call(), call()
    guard.verify(held)
    for result in (first, second):
        if not isinstance(result, Tensor):
            raise WrongResult(f"returned {type(result).__name__}, expected a tensor")
        if result.shape != torch.Size(shape) or result.dtype not in dtypes or result.device != held[0].device:
            names = " or ".join(map(str, dtypes))
            raise WrongResult(
                f"returned {result.dtype} {list(result.shape)} on {result.device}, expected {names} {list(shape)} on "
                f"{held[0].device}"
            )
    place = _place(second)
    if place != 0 and place in [_place(first), *map(_place, held)]:
        raise WrongResult("returned memory that is in use already: an operand's, or that of its previous result")
    return second


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _bytes(x: Tensor) -> Tensor:
    """Comparable by bits, so that a NaN equals itself."""
    return x.contiguous().reshape(-1).view(torch.uint8)
