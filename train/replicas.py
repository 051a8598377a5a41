"""A model in several processes: whole in each of them (DDP), or cut into shards (FSDP2)."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# torch renamed the argument; the older name warns where the newer one exists.
_NAMES = inspect.signature(DistributedDataParallel.__init__).parameters
_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


class Replica(DistributedDataParallel):
    """DDP whose attributes and parameter names are those of the module in it, as a method's loss expects them."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        # Buffers stay each process's own: copied before every forward they would change under a pending backward.
        options: dict[str, Any] = {_BUFFERS: False}
        super().__init__(module, device_ids=[device.index] if device.type == "cuda" else None, **options)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.named_parameters(*args, **kwargs)


def shard(model: nn.Module, device: torch.device, world: int) -> None:
    """FSDP2, in place: each block of a list of modules is a unit of communication, the rest is another."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(model, FSDPModule):
        return  # by an earlier phase
    mesh = init_device_mesh(device.type, (world,))
    for module in reversed(list(model.modules())):  # inner blocks before those around them
        blocks = module if isinstance(module, nn.ModuleList) else ()
        for block in blocks:
            if not isinstance(block, nn.ModuleList | nn.ModuleDict | FSDPModule):
                fully_shard(block, mesh=mesh)
    # The root gives its whole parameters up after each forward too: hooks see shards wherever they look.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def total_norm(norm: Tensor) -> Tensor:
    """A norm [] over the shards of all processes as a plain tensor."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
