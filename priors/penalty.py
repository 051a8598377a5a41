"""The rate that BackSlash charges for weights, its gradient, and the sums that a shape is estimated from.

With ν the shape (a constant of the gradient), N the number of parameters and ε ≥ 0:

    R = 1/N Σ (|θ| + ε)^ν            ∂R/∂θ = ν/N · sign(θ) · (|θ| + ε)^(ν-1)          J = D + λ R

Source: BackSlash (arXiv 2504.16968), "discretized generalized Gaussian rate". ε softens the gradient, which for ν < 1
has no bound at 0; the paper gives no value, the authors' code has 1. sign(0) = 0: exact zeros stay.

All parameters go through each operation in few calls: lists of whole tensors on accelerators, pieces that fit the cache
on CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_CPU_PIECE = 1 << 16
"""Elements of a temporary on a CPU: 256 KiB in float32."""
_DEVICE_PIECE = 1 << 26


def sums(params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Σ|x| and Σx² of each tensor: two float64 tensors [len(params)] on the first one's device.

    The sums run in float64: in float32, those of 10^8 weights come out wrong by a third.
    """
    data = [p.detach() for p in params]
    device = data[0].device
    ones = torch._foreach_norm(data, 1, dtype=torch.float64)
    twos = torch._foreach_norm(data, 2, dtype=torch.float64)
    first, second = (torch.stack([norm.to(device) for norm in norms]) for norms in (ones, twos))
    return first, second.square()


def rate(params: Sequence[Tensor], shapes: Sequence[float], eps: float = 1.0) -> float:
    """R of the parameters together, each with its shape; a float. With ε = 1 weights of 0 cost 1."""
    count = sum(p.numel() for p in params)
    parts = [(p.detach().double().abs() + eps).pow(shape).sum().item() for p, shape in zip(params, shapes, strict=True)]
    return math.fsum(parts) / count


@torch.no_grad()
def subtract_rate_gradient_(
    targets: Sequence[Tensor], params: Sequence[Tensor], shapes: Sequence[float], factor: float, eps: float = 1.0
) -> None:
    """target ← target - factor · ν · sign(θ) · (|θ| + ε)^(ν-1), in place.

    targets: tensors of the shapes of `params`: the parameters themselves for the decoupled update with factor λ/N, or
    their gradients with factor -λ/N. shapes: ν of each. The power is taken in float32 at least.
    """
    for goals, data, exponents in _batches(targets, params, shapes):
        wide = [x if x.dtype in (torch.float32, torch.float64) else x.float() for x in data]
        powers = torch._foreach_abs(wide)
        if eps:
            torch._foreach_add_(powers, eps)
        torch._foreach_pow_(powers, [shape - 1.0 for shape in exponents])
        if not eps:  # 0 to a negative power is infinite, and 0 · ∞ no number
            for power, x in zip(powers, wide, strict=True):
                power.masked_fill_(x == 0, 0.0)
        torch._foreach_mul_(powers, torch._foreach_sign(wide))
        torch._foreach_mul_(powers, [-factor * shape for shape in exponents])
        torch._foreach_add_(goals, powers)


_Batch = tuple[list[Tensor], list[Tensor], list[float]]


def _batches(targets: Sequence[Tensor], params: Sequence[Tensor], shapes: Sequence[float]) -> Iterator[_Batch]:
    """Pieces of targets and parameters, each list of one device and with a bounded number of elements."""
    batch: _Batch = ([], [], [])
    held = 0
    for target, p, shape in zip(targets, params, shapes, strict=True):
        limit = _CPU_PIECE if p.device.type == "cpu" else _DEVICE_PIECE
        for goal, piece in _pieces(target.detach(), p.detach(), limit):
            if batch[1] and (held + piece.numel() > limit or piece.device != batch[1][0].device):
                yield batch
                batch, held = ([], [], []), 0
            batch[0].append(goal)
            batch[1].append(piece)
            batch[2].append(shape)
            held += piece.numel()
    if batch[1]:
        yield batch


def _pieces(target: Tensor, p: Tensor, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    if p.numel() <= limit or not (p.is_contiguous() and target.is_contiguous()):
        return iter([(target, p)])
    return zip(target.view(-1).split(limit), p.view(-1).split(limit), strict=True)
