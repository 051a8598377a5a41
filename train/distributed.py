"""A run in several processes, started by torchrun: data parallel (DDP) or with everything in shards (FSDP2).

Every process reads the same batch and takes its rows of it, so a source's position, and what methods draw for it, are
those of one process. The loss counts each labelled token once over all processes: with ``n_r`` labelled tokens and mean
loss ``L_r`` on process ``r``,

    L = Σ_r n_r L_r / Σ_r n_r

whose gradient is that of the whole batch in one process, up to the order of sums. DDP and FSDP2 average gradients over
the ``W`` processes, so each passes back ``W · n_r L_r / Σ n``.

Sources: Li et al., "PyTorch Distributed", VLDB 2020 (arXiv:2006.15704); Zhao et al., "PyTorch FSDP", VLDB 2023
(arXiv:2304.11277), here in its per-parameter form (``torch.distributed.fsdp.fully_shard``).
"""

import atexit
import contextlib
import gc
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from narrowgauge.train.data import Batch
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.replicas import Replica, shard
from narrowgauge.train.rng import derive_seed, isolated

PARALLEL = ("ddp", "fsdp2")
CHECK_BELOW = 65521
T = TypeVar("T")


def is_first() -> bool:
    """Whether this process writes files and prints: rank 0, or the only one."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def join() -> None:
    """Join the processes that torchrun started; nothing where there is no torchrun, or a group already."""
    if not dist.is_available() or dist.is_initialized() or not dist.is_torchelastic_launched():
        return
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        gc.collect()  # replicas are in cycles; left to the interpreter's end, their threads may find it gone
        dist.destroy_process_group()


class Processes:
    """The processes of a run, ``world`` of them; this one is ``rank``. A run that is not parallel has one.

    ``parallel`` is ``"ddp"`` (each holds the whole model), ``"fsdp2"`` (each holds a share of every parameter, gradient
    and state) or ``None``. Without torchrun, and without a process group of the caller's, the run is alone. Raises
    ``ValueError`` for another ``parallel``.
    """

    def __init__(self, parallel: str | None = None) -> None:
        if parallel is not None and parallel not in PARALLEL:
            raise ValueError(f"parallel: expected None, {' or '.join(map(repr, PARALLEL))}, got {parallel!r}")
        if parallel is not None:
            join()
        together = parallel is not None and dist.is_available() and dist.is_initialized()
        self.parallel = parallel if together else None
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self.device = torch.device("cpu")
        self.forward: nn.Module = nn.Identity()

    @property
    def first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def place(self, model: nn.Module, device: torch.device | str | None) -> nn.Module:
        """The model on its device, in shards under ``"fsdp2"``. ``"cuda"`` is this process's own GPU."""
        if device is not None:
            device = torch.device(device)
            if self.parallel is not None and device.type == "cuda" and device.index is None:
                device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            model.to(device)
        self.device = next(model.parameters()).device
        if self.parallel == "fsdp2":
            shard(model, self.device, self.world)
        return model

    def wrap(self, model: nn.Module) -> nn.Module:
        """What the loss calls: the model, or its replica that reduces gradients."""
        if self.parallel == "ddp":
            self.forward = Replica(model, self.device)
        else:
            self.forward = model
        return self.forward

    def rows(self, batch: Batch) -> Batch:
        """This process's rows of a whole batch; where it has none, the first row without labels."""
        if self.world == 1:
            return batch
        num_rows = len(batch["labels"])
        own = torch.arange(num_rows).tensor_split(self.world)[self.rank]
        idle = not len(own)
        rows = slice(0, 1) if idle else slice(int(own[0]), int(own[-1]) + 1)
        part = {name: t[rows] if t.ndim and len(t) == num_rows else t for name, t in batch.items()}
        return {**part, "labels": torch.full_like(part["labels"], IGNORED_LABEL)} if idle else part

    def num_labelled(self, count: int, batches: Sequence[Batch]) -> int:
        """The sum of ``count`` over all processes; ``batches`` are the whole ones that each has read.

        ``ValueError`` on all processes unless all have read the same.
        """
        if self.world == 1:
            return count
        check = sum(int(batch["labels"].sum()) * place for place, batch in enumerate(batches, start=1)) % CHECK_BELOW
        total, checks, squares = self.total([count, check, check * check])
        if checks * checks != squares * self.world:  # equal for equal numbers alone, and exact in float64
            raise ValueError("data: the processes read different batches; give all of them the same whole source")
        return int(total)

    def own_draws(self, seed: int, step: int) -> contextlib.AbstractContextManager[None]:
        """Around forward and backward, whose draws (dropout) are other ones for every process; all others are alike."""
        if self.world == 1:
            return contextlib.nullcontext()
        return isolated(self.device, derive_seed(seed, step, self.rank))

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        if self.world == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return summed.tolist()

    def sync(self, *, last: bool) -> contextlib.AbstractContextManager[object]:
        """Around forward and backward of a micro-batch: gradients are reduced with the ``last`` one alone."""
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        if self.parallel == "fsdp2":
            self.forward.set_requires_gradient_sync(last)  # type: ignore[operator]
        return contextlib.nullcontext()

    def agree(self, value: T) -> T:
        """The first process's ``value``, on all of them."""
        if self.world == 1:
            return value
        boxed = [value]
        dist.broadcast_object_list(boxed, src=0)
        return boxed[0]

    def first_does(self, work: Callable[[], None]) -> None:
        """The first process works while the others wait; its failure is everybody's."""
        failure: str | None = None
        if self.first:
            try:
                work()
            except Exception as error:
                if self.world == 1:
                    raise
                failure = f"{type(error).__name__}: {error}"
        if (failed := self.agree(failure)) is not None:
            raise RuntimeError(f"process 0 failed: {failed}")
