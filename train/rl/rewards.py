r"""What a completion is worth: small functions that tasks put together.

The length rewards are those of "Train Long, Think Short" (arXiv:2508.08940). For length ``l`` and budget ``L``::

    triangular = l / L  (l <= L),   1 - (l - L) / L  (L < l <= 2 L),   0  (l > 2 L)
    band       = 1      (l <= L),   as above beyond

The triangle is 1 at exactly ``L`` and also pays to lengthen what is shorter. Beyond ``2 L`` both are flat: there
nothing tells in which direction to go.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from narrowgauge.train.tokens import EOS, decode


@dataclass(frozen=True)
class Completion:
    """What the model wrote: ``ids`` without EOS, and whether it wrote EOS."""

    ids: tuple[int, ...]
    ended: bool

    @classmethod
    def from_ids(cls, ids: list[int]) -> "Completion":
        """From the labelled tokens of a row, EOS the last one or absent."""
        ended = bool(ids) and ids[-1] == EOS
        return cls(tuple(ids[:-1] if ended else ids), ended)

    @property
    def text(self) -> str:
        """The bytes as text; broken UTF-8 is replaced."""
        return decode(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


Reward = Callable[[Any, Completion], float]
"""(the item that the prompt came from, what the model wrote) to a number."""


def exact_match(item: Any, completion: Completion) -> float:
    """1 when the completion ended and is ``item.answer`` (bytes), else 0."""
    return float(completion.ended and completion.ids == tuple(item.answer))


def matches_format(pattern: str) -> Reward:
    r"""A reward of 1 when the whole text matches a regular expression, else 0; ``.`` matches line ends too."""
    compiled = re.compile(pattern, re.DOTALL)
    return lambda item, completion: float(compiled.fullmatch(completion.text) is not None)


def triangular_length(length: int, budget: float) -> float:
    """The triangle above, in [0, 1]; ``budget`` above 0."""
    return min(length / _checked(budget), band_length(length, budget))


def band_length(length: int, budget: float) -> float:
    """The band above, in [0, 1]; ``budget`` above 0."""
    return min(1.0, max(0.0, 2.0 - length / _checked(budget)))


def total_reward(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """``Σ weight · part``; a part without a weight counts once. ``ValueError`` for a weight without its part."""
    if unknown := sorted(weights.keys() - parts.keys()):
        raise ValueError(f"weights: {unknown[0]!r} is no reward, expected among {', '.join(parts)}")
    return sum(weights.get(name, 1.0) * value for name, value in parts.items())


def _checked(budget: float) -> float:
    if not budget > 0:
        raise ValueError(f"budget: expected a number above 0, got {budget}")
    return budget
