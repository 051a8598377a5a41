"""The saved-tensor hook of one forward pass: decides for every tensor that autograd saves how it is kept.

In this order: what is not a floating tensor of the graph, is small, belongs to a parameter or is excepted by the policy
stays as it is; the output of a compressed operation is computed again; everything else is kept as codes, once for all
that save the same memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from narrowgauge.nn.activations.function import recompute_of
from narrowgauge.nn.activations.graph import Origin, kind, origin
from narrowgauge.nn.activations.kept import Again, Codes, Kept, Shared, View, Whole, as_rows, as_view
from narrowgauge.nn.activations.policy import ActivationPolicy
from narrowgauge.nn.activations.report import PLAIN_TENSORS, Ledger, SavedReport
from narrowgauge.nn.activations.versions import Version
from narrowgauge.nn.saving import begin_compressed, end_compressed

LINEAR = {
    "linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "addmm", "addbmm", "baddbmm",
    "einsum", "tensordot", "chain_matmul", "conv1d", "conv2d", "conv3d",
}  # fmt: skip
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def consumer_of(function: Callable[..., Any]) -> str:
    """Which of the policy's `CONSUMERS` a torch function is."""
    name = getattr(function, "__name__", "")
    if "attention" in name or "flash_attn" in name:
        return "attention"
    return "linear" if name in LINEAR else "nonlinear"


class _Consumer(TorchFunctionMode):
    """Remembers which function runs, so that the hook knows who saves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = "nonlinear"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outer, self.now = self.now, consumer_of(func)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.now = outer


class SavedTensors:
    """A context around one forward pass; `report()` says what it has saved.

    owned: the model's parameters and buffers, which are neither compressed nor counted.
    """

    def __init__(self, policy: ActivationPolicy, owned: Iterable[Tensor]) -> None:
        self.policy = policy
        self._ledger = Ledger(owned)
        self._consumer = _Consumer()
        self._hooks = saved_tensors_hooks(self._pack, _unpack)
        # By memory: what is kept of it. The weak references to storages keep addresses from being used again.
        self._shared: dict[tuple[object, ...], tuple[weakref.ref[Codes | Whole], StorageWeakRef]] = {}

    def __enter__(self) -> SavedTensors:
        self._consumer.__enter__()  # type: ignore[no-untyped-call]
        self._hooks.__enter__()
        self._compressed = begin_compressed()
        return self

    def __exit__(self, *error: Any) -> None:
        end_compressed(self._compressed)
        self._hooks.__exit__(*error)
        self._consumer.__exit__(*error)  # type: ignore[no-untyped-call]
        self._shared.clear()

    def report(self) -> SavedReport:
        """What has been saved so far."""
        return self._ledger.report()

    def _pack(self, tensor: Tensor) -> Kept:
        read_by = self._consumer.now
        if type(tensor) not in PLAIN_TENSORS or tensor.layout != torch.strided:
            return Whole(tensor)
        if tensor.dtype not in DTYPES:
            return self._whole(tensor, "", read_by, "as it is: codes, indices or masks")
        if self._ledger.owns(tensor):
            return self._whole(tensor, "", read_by, "as it is: parameter or buffer")
        source = origin(tensor)
        if source.node is None:
            return self._whole(tensor, "", read_by, "as it is: outside the graph")
        made_by = kind(source.node)
        scheme = self.policy.scheme(read_by)
        reason = self._excepted(tensor, source, made_by, read_by)
        if reason is not None:
            return self._whole(tensor, made_by, read_by, f"as it is: {reason}")
        if scheme is None:
            whole = self._whole(tensor, made_by, read_by, "as it is: policy")
            self._share(as_view(tensor), tensor, whole)
            return whole
        recompute = recompute_of(source.node) if self.policy.recompute else None
        if recompute is not None:
            self._ledger.enter(made_by, read_by, "computed again", tensor, ())
            return Again(recompute, tensor, Version(tensor))
        return self._codes(tensor, source, made_by, read_by, scheme)

    def _excepted(self, tensor: Tensor, source: Origin, made_by: str, read_by: str) -> str | None:
        """Why a floating tensor of the graph stays as it is, or None."""
        if source.parameter:
            return "cast or view of a parameter"
        if tensor.numel() < self.policy.min_elements:
            return "small"
        if made_by.startswith(self.policy.exact):
            return "exact"
        if self.policy.filter_fn is not None and not self.policy.filter_fn(tensor, read_by):
            return "filter_fn said no"
        return None

    def _whole(self, tensor: Tensor, made_by: str, read_by: str, how: str) -> Whole:
        self._ledger.enter(made_by, read_by, how, tensor, (tensor,))
        return Whole(tensor)

    def _share(self, view: View, tensor: Tensor, kept: Codes | Whole) -> None:
        self._shared[view.key] = weakref.ref(kept), StorageWeakRef(tensor.untyped_storage())

    def _codes(self, tensor: Tensor, source: Origin, made_by: str, read_by: str, scheme: str) -> Kept:
        view = as_view(tensor)
        known = self._shared.get(view.key)
        kept = None if known is None else known[0]()
        if isinstance(kept, Whole):
            return self._whole(tensor, made_by, read_by, "as it is: kept for another reader")
        if kept is None:
            amax = None if source.cast else getattr(source.node, "amax", None)
            kept = Codes(as_rows(view.dense, scheme, own_rows=read_by == "nonlinear"), scheme, amax)
            self._share(view, tensor, kept)
        self._ledger.enter(made_by, read_by, kept.scheme, tensor, kept.parts)
        return Shared(kept, view, Version(tensor))


def _unpack(kept: Kept) -> Tensor:
    return kept.unpack()
