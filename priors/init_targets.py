"""Which tensors of a module are weights to draw, and how they are made of matrices with a fan of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor, nn


class Scope(StrEnum):
    """Which parameters of a module are weights."""

    LINEAR = "linear"
    LAYERS = "layers"
    ALL_2D = "all_2d"
    ALL_ND = "all_nd"


_NORMS = (nn.LayerNorm, nn.RMSNorm)  # of torch's, those whose gains can have more than one dimension
_PLAIN = (
    nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag,
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_GATES: tuple[tuple[type[nn.Module], int], ...] = (
    (nn.LSTM, 4), (nn.LSTMCell, 4), (nn.GRU, 3), (nn.GRUCell, 3), (nn.RNN, 1), (nn.RNNCell, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One tensor to fill, in `views` of it that leave out what must stay (an embedding's padding row). It is `parts`
    matrices of equal size one below the other, such as the four gates of an LSTM."""

    name: str
    tensor: Tensor
    views: tuple[Tensor, ...]
    parts: int = 1

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """The shape of one of the parts."""
        size = tuple(self.tensor.shape)
        return (size[0] // self.parts, *size[1:]) if size else size


def targets_of(target: Tensor | nn.Module, scope: Scope) -> Iterator[Target]:
    """The tensors of a module that the scope selects, each once, or the tensor itself.

    TypeError for what is neither and for integers; ValueError for the meta device and for a layer whose weight is
    computed.
    """
    if isinstance(target, nn.Module):
        padding = {
            id(m.weight): m.padding_idx
            for m in target.modules()
            if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.padding_idx is not None
        }
        seen: set[int] = set()
        for name, parameter, parts in _selected(target, scope):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield _checked(name, parameter, padding.get(id(parameter)), parts)
    elif isinstance(target, Tensor):
        yield _checked("target", target, None, 1)
    else:
        raise TypeError(f"target: got {type(target).__name__}, accepted: torch.nn.Module or torch.Tensor")


def _selected(module: nn.Module, scope: Scope) -> Iterator[tuple[str, Tensor, int]]:
    for prefix, child in module.named_modules():
        own = dict(child.named_parameters(recurse=False))
        if isinstance(child, _NORMS):
            continue
        for leaf, parts in _leaves(prefix, child, own, scope).items():
            yield f"{prefix}.{leaf}".lstrip("."), own[leaf], parts


def _leaves(prefix: str, child: nn.Module, own: dict[str, nn.Parameter], scope: Scope) -> dict[str, int]:
    """Names of the weights among a module's own parameters, and of how many matrices each consists."""
    if scope in (Scope.ALL_2D, Scope.ALL_ND):
        return {
            leaf: 1
            for leaf, p in own.items()
            if "bias" not in leaf and (p.ndim == 2 or (p.ndim > 2 and scope is Scope.ALL_ND))
        }
    plain = nn.Linear if scope is Scope.LINEAR else _PLAIN
    if isinstance(child, plain):
        if "weight" not in own:
            raise ValueError(f"{prefix or 'target'}: got a weight that is no parameter, accepted: a plain layer")
        return {"weight": 1}
    if scope is Scope.LINEAR:
        return {}
    if isinstance(child, nn.MultiheadAttention):
        return {leaf: 3 if leaf == "in_proj_weight" else 1 for leaf in own if leaf.endswith("proj_weight")}
    for kind, gates in _GATES:
        if isinstance(child, kind):
            # weight_hr projects the hidden state, once for all gates.
            return {leaf: 1 if "_hr" in leaf else gates for leaf in own if leaf.startswith("weight")}
    return {}


def _checked(name: str, tensor: Tensor, padding_row: int | None, parts: int) -> Target:
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: got dtype {tensor.dtype}, accepted: floating-point types")
    if tensor.is_meta:
        raise ValueError(f"{name}: got a tensor on the meta device, accepted: one with memory (to_empty first)")
    data = tensor.detach()
    views = (data,) if padding_row is None else (data[:padding_row], data[padding_row + 1 :])
    return Target(name, tensor, views, parts)
