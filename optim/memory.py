"""Memory measured from live storage: every tensor's storage is counted once, by the bytes that it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from narrowgauge.optim.local import local_tensor, shape_of


class StateBytes(NamedTuple):
    """Memory of optimizer states: `total` bytes for `parameters` elements."""

    total: int
    parameters: int

    @property
    def per_parameter(self) -> float:
        """Bytes per element; 0 where there are none."""
        return self.total / self.parameters if self.parameters else 0.0


class StaticBytes(NamedTuple):
    """Memory, in bytes, that training holds between steps, for `parameters` elements of this process."""

    weights: int
    residuals: int
    states: int
    gradients: int
    parameters: int

    @property
    def total(self) -> int:
        """All four together."""
        return self.weights + self.residuals + self.states + self.gradients

    @property
    def per_parameter(self) -> float:
        """Bytes of all four per element; 0 where there are none."""
        return self.total / self.parameters if self.parameters else 0.0


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind tensors, each counted once."""
    storages = {}
    for tensor in tensors:
        storage = local_tensor(tensor).tensor.untyped_storage()
        storages[storage.data_ptr(), storage.device] = storage.nbytes()
    return sum(storages.values())


def live_bytes(params: list[Tensor], states: Mapping[Tensor, Mapping[str, Any]]) -> StaticBytes:
    """What parameters, their gradients and their states hold."""
    kept = [states[p] for p in params if states.get(p)]
    residuals = [state["residual"] for state in kept if "residual" in state]
    others = [t for state in kept for key, t in state.items() if key != "residual" and isinstance(t, Tensor)]
    return StaticBytes(
        weights=total_bytes(params),
        residuals=total_bytes(residuals),
        states=total_bytes(others),
        gradients=total_bytes(p.grad for p in params if p.grad is not None),
        parameters=sum(shape_of(p).numel() for p in params),
    )
