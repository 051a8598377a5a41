"""`Map`: a differentiable module between a parameter or an input and its quantisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from torch import Tensor, nn


class Map(nn.Module, ABC):
    """forward(x) has the shape and dtype of x."""

    EXAMPLE: ClassVar[str] = ""
    """A text that means this map, for messages."""

    @classmethod
    @abstractmethod
    def from_text(cls, text: str) -> Self | None:
        """The map that a text means, None if it is another's."""

    def prepare(self, weight: Tensor, scheme: str | None) -> None:
        """Called once for the layer whose weight it maps: its weight, and the text of the slot w_fprop."""
