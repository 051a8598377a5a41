"""The parts of an array on as many threads as torch uses: numpy lets go of the interpreter in its loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def each(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """[function(part) for part in parts], on `torch.get_num_threads()` threads."""
    threads = min(torch.get_num_threads(), len(parts))
    if threads <= 1:
        return [function(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, parts))
