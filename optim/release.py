"""Gradients released during the backward pass: each parameter is stepped, and its gradient freed, once it is complete.

The gradients of a model are then never all there at once, which saves their memory (2 bytes a parameter in bfloat16);
cf. LOMO (Lv et al., arXiv 2306.09782). The step has the bits that `optimizer.step()` would have given: keys of
stochastic roundings come from the parameter's position and step alone.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from narrowgauge.optim.base import CompressedOptimizer


class ReleaseHandle:
    """What `release_gradients` has installed; `remove` takes it away."""

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Backward passes leave gradients again; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def release_gradients(optimizer: CompressedOptimizer) -> ReleaseHandle:
    """From now on `loss.backward()` steps the optimizer's parameters and frees their gradients as it goes.

    What follows from that: every backward pass is a step, so gradients cannot be accumulated over several (a larger
    batch has to go through one backward pass); a parameter that a graph uses several times is stepped once, after the
    last use; `optimizer.step()` finds nothing left to do, and may still be called for a scheduler's sake; hooks of
    `optimizer.step` are not called; and the lr is that of the time of the backward pass. Parameters that had no
    gradient are not stepped, as ever.

    Returns a handle whose `remove()` ends it. Raises ValueError for groups with clip_norm, whose norm needs all
    gradients at once, and for nonfinite="raise", which promises that nothing changes; TypeError for other optimizers.
    """
    if not isinstance(optimizer, CompressedOptimizer):
        raise TypeError(f"optimizer: expected one of narrowgauge.optim, got {type(optimizer).__name__}")
    for group in optimizer.param_groups:
        if group["clip_norm"] is not None:
            raise ValueError("clip_norm: the norm needs all gradients at once; leave it None to release them")
        if group["nonfinite"] == "raise":
            raise ValueError("nonfinite: 'raise' looks at all gradients before a step; choose 'propagate' or 'skip'")

    def step(p: Tensor) -> None:
        optimizer.step_parameter(p)
        p.grad = None

    handles = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.requires_grad:
                handles.append(p.register_post_accumulate_grad_hook(step))
    return ReleaseHandle(handles)
