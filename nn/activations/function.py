"""The autograd function of compressed activations, and how its output is computed again.

Forward: y = op(activations, parameters), exact. Saved: the activations as codes and scales (see `parts`), the
parameters as they are. Backward: the operation's gradients at the restored activations. From the same codes the output
can be had again, so that whoever needs y for backward does not have to keep it (`recompute_of`).
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import TensorWeakRef

from narrowgauge.nn.activations.group_scaling import evaluate_with_amax
from narrowgauge.nn.activations.operations import Operation, wide
from narrowgauge.nn.activations.parts import PARTS, Parts, compress, restore
from narrowgauge.nn.activations.versions import Version, modified

Saved = tuple[Tensor | None, ...]
Form = tuple[torch.Size, torch.dtype]


class CompressedOperation(torch.autograd.Function):
    """y = op(*tensors); see the module. `measure`: also remember max |y|, taken with Group Scaling."""

    @staticmethod
    def forward(ctx: Any, op: Operation, scheme: str, measure: bool, *tensors: Tensor) -> Tensor:
        activations, parameters = tensors[: op.activations], tensors[op.activations :]
        parts = [part for x in activations for part in compress(x, scheme)]
        ctx.save_for_backward(*parts, *parameters)
        ctx.op, ctx.scheme = op, scheme
        ctx.forms = tuple((x.shape, x.dtype) for x in activations)
        if torch.compiler.is_compiling():
            return op(*tensors)
        ctx.versions = tuple(Version(x) for x in activations)
        # Weak: where a checkpoint drops what is saved, this must not keep it.
        ctx.kept = tuple(None if t is None else TensorWeakRef(t) for t in (*parts, *parameters))
        ctx.recompute = None
        ctx.amax = None
        if not (measure and op.row_by_row):
            return op(*tensors)
        y, amax = evaluate_with_amax(lambda *rows: op(*rows, *parameters), *activations)
        ctx.amax = amax.amax() if amax.numel() else None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if not torch.compiler.is_compiling():
            for version in ctx.versions:
                version.check()
        dtype = wide(ctx.forms[0][1])
        activations, parameters = restored(saved, ctx.scheme, ctx.forms, dtype)
        gradients = ctx.op.gradients(grad.to(dtype), *activations, *parameters)
        targets = [dtype for _, dtype in ctx.forms] + [None if p is None else p.dtype for p in parameters]
        cast = (None if g is None else g.to(target) for g, target in zip(gradients, targets, strict=True))
        return None, None, None, *cast


def restored(
    saved: Saved, scheme: str, forms: tuple[Form, ...], dtype: torch.dtype | None
) -> tuple[list[Tensor], Saved]:
    """(activations, parameters) from what was saved; activations in `dtype`, None: in their own."""
    activations = []
    for index, (shape, own) in enumerate(forms):
        parts: Parts = saved[PARTS * index : PARTS * (index + 1)]  # type: ignore[assignment]
        activations.append(restore(parts, scheme, shape, dtype or own))
    return activations, saved[PARTS * len(forms) :]


def apply(op: Operation, scheme: str, *tensors: Tensor | None, measure: bool = False) -> Tensor:
    """op(*tensors), keeping the activations under `scheme` if a gradient will be asked for."""
    if not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in tensors):
        return op(*tensors)
    y: Tensor = CompressedOperation.apply(op, scheme, measure, *tensors)  # type: ignore[no-untyped-call]
    return y


class Recompute:
    """The output of a `CompressedOperation`, computed again from what that has saved.

    Several linear layers read one output, and their backwards follow each other: what is computed for the first of the
    `readers` is held until the last has had it.
    """

    def __init__(self, op: Operation, scheme: str, forms: tuple[Form, ...], saved: Saved) -> None:
        self.op, self.scheme, self.forms, self.saved = op, scheme, forms, saved
        self.readers = 0
        self._versions = tuple(None if t is None else t._version for t in saved)
        self._due = 0
        self._value: Tensor | None = None

    def value(self) -> Tensor:
        """The output at the restored activations. RuntimeError if a parameter has been changed in place."""
        if self._value is None:
            for tensor, version in zip(self.saved, self._versions, strict=True):
                if tensor is not None and version is not None and tensor._version != version:
                    raise modified(tensor, version)
            activations, parameters = restored(self.saved, self.scheme, self.forms, None)
            with torch.no_grad():
                self._value = self.op(*activations, *parameters)
            self._due = self.readers
        value = self._value
        self._due -= 1
        if self._due <= 0:
            self._value = None
        return value


def recompute_of(node: Any) -> Recompute | None:
    """How to compute the output of a graph node again; None if it is not a `CompressedOperation`, or if what it saved
    is not kept (a checkpoint will compute it again)."""
    if getattr(node, "_forward_cls", None) is not CompressedOperation:
        return None
    shared: Recompute | None = None if node.recompute is None else node.recompute()
    if shared is None:
        saved = tuple(None if ref is None else ref() for ref in node.kept)
        if any(ref is not None and tensor is None for ref, tensor in zip(node.kept, saved, strict=True)):
            return None
        shared = Recompute(node.op, node.scheme, node.forms, saved)
        node.recompute = weakref.ref(shared)
    return shared
