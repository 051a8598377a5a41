"""Whole tensors from the shards of a DTensor's processes, and back: for updates that need the whole.

The state stays in shards, compressed; a whole tensor lives for the time of one parameter's update, in every process.
"""

from __future__ import annotations

from torch import Tensor

from narrowgauge.optim.local import as_shard, cut_axis, local_tensor


def gathered(part: Tensor, p: Tensor) -> Tensor:
    """The whole tensor whose local part is `part`, cut as the parameter p is. A collective where p is a DTensor that is
    cut: all processes of its mesh have to call it, for the same parameters in the same order."""
    if cut_axis(p) is None:
        return part
    whole: Tensor = as_shard(part, p).full_tensor()  # type: ignore[attr-defined]
    return whole


def own_part(whole: Tensor, p: Tensor) -> Tensor:
    """The part of a whole tensor, of p's shape, that this process holds of p."""
    local = local_tensor(p)
    if local.tensor.shape == whole.shape:
        return whole
    return whole[local.row : local.row + local.tensor.shape[0]]
