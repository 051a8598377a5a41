"""Random choices for task generators that are the same with every version of Python and numpy.

Both keep only the raw stream of a bit generator stable across versions; what is made of it here, is made by hand.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
LOWER_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BLOCK = 1024


class Draws:
    """A stream of choices that depends on ``seed`` and ``purpose`` alone (Philox with a key made of both)."""

    def __init__(self, seed: int, purpose: str) -> None:
        key = int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:16], "little")
        self._generator = np.random.Philox(key=key)
        self._block: list[int] = []

    def _raw(self) -> int:
        if not self._block:
            self._block = self._generator.random_raw(_BLOCK).tolist()
        return self._block.pop()

    def below(self, count: int) -> int:
        """One of 0 … count - 1; ``count`` is so far below 2^64 that the remainder's bias cannot be seen."""
        if count < 1:
            raise ValueError(f"count: expected at least 1, got {count}")
        return self._raw() % count

    def between(self, low: int, high: int) -> int:
        """One of low … high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._raw() < probability * 2.0**64

    def choice(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in random order."""
        mixed = list(items)
        for last in range(len(mixed) - 1, 0, -1):
            other = self.below(last + 1)
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed

    def distinct(self, items: Sequence[T], count: int) -> list[T]:
        """``count`` different items in random order."""
        if count > len(items):
            raise ValueError(f"count: expected at most {len(items)}, got {count}")
        return self.shuffled(items)[:count]

    def text(self, length: int, alphabet: str = LOWER_LETTERS) -> str:
        """``length`` letters, each drawn independently."""
        return "".join(self.choice(alphabet) for _ in range(length))
