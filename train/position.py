"""A stream's place: one number, and what it is a place in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Positioned(ABC):
    """A source whose batch is a pure function of ``position``, the number of batches given so far."""

    position: int = 0

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that the batch at a position depends on, as JSON values; the same on every rank."""

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {**self.identity(), "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved position; ``ValueError`` when it was saved by a stream of other batches."""
        for key, ours in self.identity().items():
            if state[key] != ours:
                raise ValueError(f"data: the saved position belongs to {key}={state[key]!r}, this stream has {ours!r}")
        self.position = int(state["position"])
