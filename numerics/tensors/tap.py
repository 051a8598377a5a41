"""Hooks on the linear layers of a live torch model that see operands and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

WEIGHT, ACTIVATION, GRADIENT = "weight", "activation", "gradient"
ROLES = (WEIGHT, ACTIVATION, GRADIENT)
"""The operands of a linear layer's matrix products: its weight, its input, the gradient of its output."""

LayerFilter: TypeAlias = Callable[[Any, str], bool]
"""filter_fn(module, name) -> whether the layer is looked at."""


def check_roles(roles: Sequence[str]) -> tuple[str, ...]:
    """`roles` as a tuple; ValueError for an unknown one and for none."""
    unknown = [role for role in roles if role not in ROLES]
    if unknown or not roles:
        raise ValueError(f"roles: got {tuple(roles)}, accepted: one or more of {', '.join(ROLES)}")
    return tuple(roles)


def linear_layers(model: nn.Module, filter_fn: LayerFilter | None = None) -> dict[str, nn.Linear]:
    """Name -> `nn.Linear` (subclasses too) below `model`, in its order; ValueError where there is none."""
    from torch import nn

    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (filter_fn is None or filter_fn(module, name))
    }
    if not layers:
        raise ValueError("model: no torch.nn.Linear in it is accepted by filter_fn, so there is nothing to look at")
    return layers


class LinearTap:
    """While entered, hands every operand to `see(layer, role, tensor)`, the tensor detached and as it is.

    The first forward pass of a layer that trains counts, and the first gradient that comes back; later calls
    (shared layers, further micro-batches, recomputation) are not looked at. `see` must neither keep the tensor
    nor write to it. Hooks are removed on the way out, after an error too; none of them returns a value, so
    torch computes exactly what it computes without them.
    """

    def __init__(
        self, layers: dict[str, nn.Linear], roles: Sequence[str], see: Callable[[str, str, Tensor], None]
    ) -> None:
        self._layers, self._roles, self._see = layers, roles, see
        self._seen: set[tuple[str, str]] = set()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            if WEIGHT in self._roles:
                self._hand_over(name, WEIGHT, layer.weight)
            if ACTIVATION in self._roles or GRADIENT in self._roles:
                self._handles.append(layer.register_forward_hook(self._forward_hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hand_over(self, name: str, role: str, tensor: Tensor) -> None:
        if (name, role) not in self._seen:
            self._seen.add((name, role))
            self._see(name, role, tensor.detach())

    def _forward_hook(self, name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if ACTIVATION in self._roles and args:
                self._hand_over(name, ACTIVATION, args[0])
            if GRADIENT in self._roles and (name, GRADIENT) not in self._seen and output.requires_grad:
                self._handles.append(output.register_hook(backward))

        def backward(gradient: Tensor) -> None:
            self._hand_over(name, GRADIENT, gradient)

        return hook
