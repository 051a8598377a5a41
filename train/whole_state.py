"""Nested states whose tensors may be cut over processes: as whole tensors, and back in shards.

Checkpoints hold whole tensors, so that they do not depend on how many processes wrote them or read them.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def is_sharded(value: object) -> bool:
    """Whether ``value`` is a DTensor (known without importing torch.distributed for plain ones)."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def whole(state: Any, *, kept: bool = True) -> Any:
    """``state`` with every DTensor gathered; a collective call where there is one.

    ``kept=False``, on processes that do not write, takes part in gathering and gives the tensors up again.
    """
    if is_sharded(state):
        full = state.full_tensor()
        return full.cpu() if kept else None
    if isinstance(state, Mapping):
        return {key: whole(value, kept=kept) for key, value in state.items()}
    if isinstance(state, list | tuple) and not hasattr(state, "_fields"):
        return type(state)(whole(value, kept=kept) for value in state)
    return state


def placed(saved: Any, like: Any) -> Any:
    """``saved`` with its whole tensors cut as those of ``like``, which stand in the same place, are.

    Every process passes the same ``saved``, nothing is communicated. Tensors that ``like`` does not have stay whole.
    """
    if is_sharded(like) and isinstance(saved, Tensor):
        return cut(saved, like)
    if isinstance(saved, Mapping) and isinstance(like, Mapping):
        return {key: placed(value, like.get(key)) for key, value in saved.items()}
    if isinstance(saved, list | tuple) and isinstance(like, list | tuple) and len(saved) == len(like):
        return type(saved)(placed(value, other) for value, other in zip(saved, like, strict=True))
    return saved


def cut(value: Tensor, like: Any) -> Tensor:
    """The whole tensor ``value`` as a DTensor over the mesh of ``like``, placed as it is."""
    from torch.distributed.tensor import distribute_tensor

    mesh = like.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, like.placements, src_data_rank=None)
