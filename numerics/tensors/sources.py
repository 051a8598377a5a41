"""Named tensors to measure formats on: distributions, safetensors checkpoints, operands of a live model.

A `TensorSource` knows names and shapes at once and gives the values one tensor at a time, as float32. Of a
tensor with more elements than `limit`, whole rows (everything but the last axis counts as rows) are taken: runs
of up to 128 neighbours, spread evenly; `TensorInfo.sample` says so. The largest element of a tensor-wide scale
is then that of the sample.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from narrowgauge.numerics._arrays import Operand, is_tensor
from narrowgauge.numerics.cases import Distribution, distribution
from narrowgauge.numerics.tensors.checkpoint import from_checkpoint as from_checkpoint
from narrowgauge.numerics.tensors.named import SAMPLE, sampled
from narrowgauge.numerics.tensors.named import NamedTensor as NamedTensor
from narrowgauge.numerics.tensors.named import TensorInfo as TensorInfo
from narrowgauge.numerics.tensors.named import TensorSource as TensorSource
from narrowgauge.numerics.tensors.tap import GRADIENT, ROLES, LayerFilter, LinearTap, check_roles, linear_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

_SUFFIXES = {"weight": "weight", "activation": "input", "gradient": "output_grad"}


def from_arrays(arrays: Mapping[str, Operand], *, role: str = "tensor", limit: int | None = SAMPLE) -> TensorSource:
    """Arrays and tensors of real numbers, by name. TypeError for other types, naming the tensor."""
    kept: dict[str, Any] = {}
    infos = []
    for name, value in arrays.items():
        x: Any = value if is_tensor(value) else np.asarray(value)
        dtype = str(x.dtype).removeprefix("torch.")
        # Kind "V" holds the narrow floats that extend numpy.
        real = not x.is_complex() and dtype != "bool" if is_tensor(x) else x.dtype.kind in "iufV"
        if not real:
            raise TypeError(f"tensors: {name!r} has dtype {dtype}, accepted: real numbers")
        kept[name] = x
        infos.append(TensorInfo(name, role, tuple(x.shape), dtype))
    return TensorSource(tuple(infos), lambda info: sampled(kept[info.name], info, limit))


def from_distributions(
    names: Iterable[Distribution | str] = tuple(Distribution), *, size: tuple[int, ...] = (256, 1024), seed: int = 0
) -> TensorSource:
    """A tensor of `size` from each distribution (see `distribution` for the names, such as gg0.5).

    Each has a generator of its own, from seed and name: adding a name changes no other tensor. ValueError for
    an unknown name, before anything is drawn, and for a name that is given twice.
    """
    texts = [str(name) for name in names]
    for text in texts:
        distribution(text, 0, np.random.default_rng(0))
    if len(set(texts)) != len(texts):
        raise ValueError(f"names: got {texts}, accepted: each name once")

    def load(info: TensorInfo) -> NamedTensor:
        rng = np.random.default_rng([seed, zlib.crc32(info.name.encode())])
        return NamedTensor(info, distribution(info.name, info.shape, rng))

    return TensorSource(tuple(TensorInfo(text, "distribution", tuple(size), "float32") for text in texts), load)


def from_model(
    model: nn.Module,
    loss_fn: Callable[[Any], Any],
    *,
    roles: Sequence[str] = ROLES,
    filter_fn: LayerFilter | None = None,
    limit: int | None = SAMPLE,
) -> TensorSource:
    """The operands of every `nn.Linear` below `model` in one run of `loss_fn(model)`.

    `loss_fn` does a forward pass and returns the loss, a scalar tensor; without "gradient" among `roles` what
    it returns is not looked at. Weights are called LAYER.weight, inputs LAYER.input, gradients of the loss with
    respect to outputs LAYER.output_grad. Of a layer that runs several times, its first input and the first
    gradient that comes back are taken.

    The model is as before afterwards: no hook stays, no `.grad` is written, buffers and torch's global
    generators are put back. It runs in the mode (train, eval) in which it is. ValueError without a linear
    layer, or without a loss to differentiate.
    """
    wanted = check_roles(roles)
    found: dict[tuple[str, str], NamedTensor] = {}
    layers = linear_layers(model, filter_fn)

    def see(layer: str, role: str, x: Tensor) -> None:
        info = TensorInfo(_tensor_name(layer, role), role, tuple(x.shape), str(x.dtype).removeprefix("torch."))
        found[layer, role] = sampled(x, info, limit)

    with _left_as_it_was(model), LinearTap(layers, wanted, see):
        loss = loss_fn(model)
        if GRADIENT in wanted:
            _differentiate(loss, model)
    order = [found[layer, role] for layer in layers for role in wanted if (layer, role) in found]
    by_name = {tensor.info.name: tensor for tensor in order}
    left_out = {
        _tensor_name(layer, role): "the layer did not run, or no gradient came back to it"
        for layer in layers
        for role in wanted
        if (layer, role) not in found
    }
    return TensorSource(tuple(tensor.info for tensor in order), lambda info: by_name[info.name], left_out)


def _tensor_name(layer: str, role: str) -> str:
    """Of the tensor that plays `role` in the layer; the model itself has no name."""
    return f"{layer}.{_SUFFIXES[role]}".removeprefix(".")


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Buffers of `model` and torch's generators are put back at the end."""
    import torch

    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def _differentiate(loss: Any, model: nn.Module) -> None:
    """Sends gradients back through the graph of `loss`; they are not kept."""
    import torch

    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise ValueError(
            "loss_fn: expected it to return the loss, a scalar tensor with a graph; for a forward pass alone, "
            'pass roles=("weight", "activation")'
        )
    # Not backward(): that would write .grad and wake the hooks of whoever trains this model.
    torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)


def as_source(tensors: object, *, limit: int | None = SAMPLE) -> TensorSource:
    """A `TensorSource` of a source, an iterable of `NamedTensor`, of distribution names or one of them, or a
    mapping of arrays.

    TypeError for anything else.
    """
    if isinstance(tensors, TensorSource):
        return tensors
    if isinstance(tensors, str):
        return from_distributions([tensors])
    if isinstance(tensors, Mapping):
        return from_arrays(tensors, limit=limit)
    items = list(tensors) if isinstance(tensors, Iterable) else []
    if items and all(isinstance(item, str) for item in items):
        return from_distributions(items)
    if not items or not all(isinstance(item, NamedTensor) for item in items):
        raise TypeError(
            f"tensors: got {type(tensors).__name__}, accepted: from_distributions(…), from_checkpoint(path), "
            "from_model(…), a mapping of names to arrays, an iterable of NamedTensor or of distribution names"
        )
    by_name = {item.info.name: item for item in items}
    return TensorSource(tuple(item.info for item in items), lambda info: by_name[info.name])
