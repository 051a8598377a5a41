"""`Stage`: something done to an operand before it is quantised, and what undoes it in the dequantised values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.scheme import Scheme

Float32Array = NDArray[np.float32]
Memo = Any
"""What `before` leaves for `after`."""


@dataclass(frozen=True)
class Draw:
    """Random streams of one operand in one call. seed: of the layer. offset: the stream of stochastic rounding.
    shared: the stream that both operands of a product have in common (signs)."""

    seed: int = 0
    offset: int = 0
    shared: int = 0


class Stage(ABC):
    """One stage. Frozen dataclasses; all arithmetic in float32, one correctly rounded operation at a time, so that
    every implementation finds the same codes."""

    EXAMPLE: ClassVar[str] = ""
    """An option that means this stage, for messages."""
    order: ClassVar[int] = 50
    """Stages of an operand run from the lowest to the highest."""
    linear: ClassVar[bool] = False
    """Whether `after` is `values · factor + rest`, elementwise, with memo = (factor, rest)."""

    @classmethod
    @abstractmethod
    def from_option(cls, text: str) -> Self | None:
        """The stage that an option such as `rht16` means, None if it is another's. ValueError if it means nothing."""

    @abstractmethod
    def __str__(self) -> str:
        """The option; `from_option` reads it back."""

    @abstractmethod
    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        """(what is quantised, memo) of x [rows, reduction]."""

    def after(self, values: NDArray[np.float64], memo: Memo) -> NDArray[np.float64]:
        """The operand's values, float64, of the dequantised ones."""
        factor, rest = memo
        return np.asarray(values * factor + rest)

    @property
    def random(self) -> bool:
        """Whether `before` uses the draw, anew in every call."""
        return False

    def check(self, scheme: Scheme) -> None:  # noqa: B027 (most stages go with every scheme)
        """ValueError where the stage cannot go with the scheme."""


def number(text: str, option: str) -> float:
    """The number of an option; ValueError names the option."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"option: {option!r}: {text!r} is not a number") from None
