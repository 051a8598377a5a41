"""Magnitude pruning after BackSlash, and masks that keep the zeros zero while the rest is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class Masks:
    """Which elements of which parameters stay zero.

    `kept`: name → bool tensor of the parameter's shape, False where it is pruned. ValueError for names and shapes that
    the module does not have.
    """

    def __init__(self, module: nn.Module, kept: Mapping[str, Tensor]) -> None:
        params = dict(module.named_parameters())
        shapes = {name: p.shape for name, p in params.items()}
        foreign = [name for name, mask in kept.items() if shapes.get(name) != mask.shape]
        if foreign:
            raise ValueError(f"kept: {foreign[0]!r} is no parameter of {type(module).__name__} with the mask's shape")
        self._params = {name: params[name] for name in kept}
        self.kept = {name: mask.to(params[name].device, torch.bool) for name, mask in kept.items()}

    @property
    def sparsity(self) -> float:
        """Share of pruned elements."""
        total = sum(mask.numel() for mask in self.kept.values())
        return sum(int((~mask).sum()) for mask in self.kept.values()) / total

    @torch.no_grad()
    def apply(self) -> None:
        """Writes the zeros."""
        for name, mask in self.kept.items():
            self._params[name].masked_fill_(~mask, 0.0)

    def hold(self, optimizer: Optimizer) -> RemovableHandle:
        """From now on the zeros are written after every step of `optimizer`; `remove()` of the result ends that."""

        def again(*_: Any) -> None:
            self.apply()

        return optimizer.register_step_post_hook(again)

    def state_dict(self) -> dict[str, Tensor]:
        """Name → mask, to be saved."""
        return dict(self.kept)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over saved masks; ValueError for those of other parameters."""
        ours = {name: mask.shape for name, mask in self.kept.items()}
        if {name: mask.shape for name, mask in state.items()} != ours:
            raise ValueError("state: the saved masks are of other parameters than these")
        self.kept = {name: state[name].to(mask.device, torch.bool) for name, mask in self.kept.items()}


@torch.no_grad()
def prune_(
    module: nn.Module, fraction: float | None = None, *, threshold: float | None = None, per_layer: bool = False
) -> Masks:
    """Sets the smallest weights of `module` to zero, in place, and returns the masks.

    Weights are the parameters of two or more dimensions; norms and biases stay. fraction: the share of weights in
    [0, 1) that becomes zero, those of smallest magnitude in the whole model or (per_layer) in each parameter; of equal
    magnitudes at the border all or none, so that the share is at most this. threshold: instead, all weights with
    |w| < threshold.

    ValueError for both or none of the two, values out of range, a module without weights, and NaN.
    """
    if (fraction is None) == (threshold is None):
        raise ValueError(f"fraction, threshold: got {fraction} and {threshold}, accepted: one of the two")
    weights = {name: p for name, p in module.named_parameters() if p.ndim >= 2 and p.numel()}
    if not weights:
        raise ValueError(f"module: {type(module).__name__} has no parameter of two or more dimensions")
    for name, p in weights.items():
        if bool(p.isnan().any()):
            raise ValueError(f"{name}: got NaN, accepted: numbers")
    if fraction is None:
        if threshold is None or not threshold >= 0:
            raise ValueError(f"threshold: got {threshold}, accepted: numbers >= 0")
        limits = dict.fromkeys(weights, float(threshold))
    else:
        if not 0 <= fraction < 1:
            raise ValueError(f"fraction: got {fraction}, accepted: numbers in [0, 1)")
        if per_layer:
            limits = {name: _limit([p], fraction) for name, p in weights.items()}
        else:
            limits = dict.fromkeys(weights, _limit(list(weights.values()), fraction))
    masks = Masks(module, {name: p.abs().double() >= limits[name] for name, p in weights.items()})
    masks.apply()
    return masks


def _limit(tensors: list[Tensor], fraction: float) -> float:
    """The magnitude below which lie at most `fraction` of all elements, and with distinct magnitudes just as many."""
    device = tensors[0].device
    magnitudes = torch.cat([t.detach().abs().reshape(-1).to(device).double() for t in tensors])
    count = int(fraction * magnitudes.numel())
    return float(magnitudes.kthvalue(count + 1).values)
