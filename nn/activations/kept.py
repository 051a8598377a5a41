"""What the hook puts in the place of a saved tensor, and the memory that several of them share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.nn.activations.function import Recompute
from narrowgauge.nn.activations.group_scaling import quantize_with_amax, takes_amax
from narrowgauge.nn.activations.parts import Parts, compress, packed, restore
from narrowgauge.nn.activations.versions import Version, modified


class Whole:
    """A tensor that is kept as it is. Its `alias` must not lead to the graph node that saves it."""

    def __init__(self, tensor: Tensor) -> None:
        self.alias = tensor if tensor.grad_fn is None else tensor.detach()
        self._expected = tensor._version

    def unpack(self) -> Tensor:
        """The tensor. RuntimeError if it has been changed in place."""
        if self.alias._version != self._expected:
            raise modified(self.alias, self._expected)
        return self.alias


class Codes:
    """The compressed values of a piece of memory, which several views may share: a matrix of float values."""

    def __init__(self, matrix: Tensor, scheme: str, amax: Tensor | None) -> None:
        self.scheme, self.shape, self.dtype = scheme, matrix.shape, matrix.dtype
        self.parts: Parts
        if amax is not None and takes_amax(scheme):
            self.parts = packed(quantize_with_amax(matrix, scheme, amax), scheme)
        else:
            self.parts = compress(matrix, scheme)

    def values(self) -> Tensor:
        """The matrix, restored."""
        return restore(self.parts, self.scheme, self.shape, self.dtype)


class View(NamedTuple):
    """A tensor as a view of `Codes`: its dense part in the order of memory, and how to come back.

    part: the elements, each once. shape, stride: of the tensor relative to `dense`; key: which memory it is, equal for
    equal bytes.
    """

    part: Tensor
    shape: torch.Size
    stride: tuple[int, ...]
    key: tuple[object, ...]

    @property
    def dense(self) -> Tensor:
        """The part, contiguous: a copy where it has gaps, made only for who asks."""
        return self.part.contiguous()


def as_view(tensor: Tensor) -> View:
    """`tensor` [...] as a view of its dense part. Axes that repeat one element are not kept, nor are gaps."""
    small = tensor
    for axis, (size, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if step == 0 and size > 1:
            small = small.narrow(axis, 0, 1)
    order = sorted(range(small.dim()), key=lambda axis: small.stride(axis), reverse=True)
    part, steps = small.permute(order), small.stride()
    memory = small.untyped_storage()._cdata
    key: tuple[object, ...] = (memory, small.storage_offset(), small.numel(), small.dtype, small._version)
    if not part.is_contiguous():
        # `dense` will be a copy in the order of the axes.
        key += (tuple(small.shape), steps)
        part, steps = small, torch.empty(small.shape, device="meta").stride()
    stride = tuple(0 if small.shape[axis] != size else steps[axis] for axis, size in enumerate(tensor.shape))
    return View(part, tensor.shape, stride, key)


def as_rows(dense: Tensor, scheme: str, *, own_rows: bool) -> Tensor:
    """`dense` as a matrix for `scheme`. A row is the last axis; unless rows must not share scales, as many of the last
    axes as a group of the scheme needs (the heads of a token, when one head is narrower than a group)."""
    group = 1 if own_rows else parse(scheme).tile[1] or 1
    width = 1
    for size in reversed(dense.shape):
        width *= size
        if width >= group:
            break
    return dense.reshape(-1, width) if width else dense.reshape(0, 1)


class Shared:
    """A saved tensor that is a view of `Codes`."""

    def __init__(self, codes: Codes, view: View, version: Version) -> None:
        self.codes, self._shape, self._stride, self._version = codes, view.shape, view.stride, version

    def unpack(self) -> Tensor:
        """The tensor, restored. RuntimeError if the original has been changed in place."""
        self._version.check()
        return self.codes.values().as_strided(self._shape, self._stride)


class Again:
    """A saved tensor that is computed again: the output of `recompute` in another shape, dtype and place."""

    def __init__(self, recompute: Recompute, tensor: Tensor, version: Version) -> None:
        recompute.readers += 1
        self.recompute, self._version = recompute, version
        self._shape, self._dtype, self._device = tensor.shape, tensor.dtype, tensor.device

    def unpack(self) -> Tensor:
        """The tensor, computed again. RuntimeError if the original has been changed in place."""
        self._version.check()
        return self.recompute.value().reshape(self._shape).to(self._device, self._dtype)


Kept = Whole | Shared | Again
