"""The part of a parameter that this process holds: all of it, or the local shard of a DTensor.

Shards are those of FSDP2: whole rows (runs along the first axis), cut along one dimension of the mesh; along others
(HSDP) every process holds the same. A process may hold none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Local(NamedTuple):
    """A plain tensor that shares the parameter's memory, and where it begins in the whole parameter. row: its first
    row. offset: its first element as stochastic roundings count them, by pairs: one more where that is odd. They stay
    unbiased then, but are not those of the whole parameter."""

    tensor: Tensor
    offset: int = 0
    row: int = 0


def is_dtensor(p: Tensor) -> TypeGuard[DTensor]:
    """Whether p is a DTensor, without importing torch.distributed for any other tensor."""
    if not hasattr(p, "to_local"):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(p, DTensor)


def cut_axis(p: Tensor, label: str = "a tensor") -> int | None:
    """The dimension of the mesh along which a DTensor is cut; None for one that is replicated, and for plain tensors.

    ValueError, which calls the tensor `label`, for a DTensor that is cut along another axis than its first, or along
    several dimensions of the mesh.
    """
    if not is_dtensor(p):
        return None
    from torch.distributed.tensor import Shard

    axes = [axis for axis, placement in enumerate(p.placements) if not placement.is_replicate()]
    if len(axes) > 1 or any(p.placements[axis] != Shard(0) for axis in axes):
        raise ValueError(
            f"params: {label} is a DTensor placed as {p.placements}; accepted: replicated, or Shard(0) along one "
            "dimension of the mesh and replicated along the others"
        )
    return axes[0] if axes else None


def local_tensor(p: Tensor) -> Local:
    """The local part of a parameter or a gradient. Any tensor but a DTensor is its own. ValueError as `cut_axis`."""
    if not is_dtensor(p):
        return Local(p)
    axis, local = cut_axis(p), p.to_local()
    if axis is None or not local.numel():
        return Local(local)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    row = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)[1][0]
    begin = row * p.shape[1:].numel()
    return Local(local, begin + begin % 2, row)


def shape_of(p: Tensor) -> torch.Size:
    """Shape of the local part."""
    return local_tensor(p).tensor.shape


def group_of_shards(p: Tensor) -> Any:
    """The processes among which a DTensor is cut, as collectives take them; None where p is not cut."""
    axis = cut_axis(p)
    return None if axis is None or not is_dtensor(p) else p.device_mesh.get_group(axis)


def as_shard(part: Tensor, p: Tensor) -> Tensor:
    """The DTensor whose local part is `part`, of as many rows as p's, cut as the DTensor p is; p's other axes and its
    dtype do not matter, and `part` stays on its device."""
    if not is_dtensor(p):
        raise TypeError(f"p: expected a DTensor, got {type(p).__name__}")
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

    shape = torch.Size((p.shape[0], *part.shape[1:])) if p.ndim else part.shape
    stride = torch.empty(shape, device="meta").stride()
    spec = DTensorSpec(p.device_mesh, p.placements, tensor_meta=TensorMeta(shape, stride, part.dtype))
    return DTensor(part.contiguous(), spec, requires_grad=False)
