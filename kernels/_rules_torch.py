"""The update rules of `kernels/step_rules.py` on a CPU: in place, on float32 operands that the caches hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.kernels.step_rules import Row


class Operands(NamedTuple):
    """float32, of one block. p, m, v: to be updated, m or v empty where the rule has none. g: not written. a, b:
    working memory."""

    p: Tensor
    g: Tensor
    m: Tensor
    v: Tensor
    a: Tensor
    b: Tensor


def _fused(x: Operands, row: Row, weight_decay: float, step: Callable[..., None]) -> None:
    # One pass, and the bits of torch's own optimizer with fused=True.
    step(
        [x.p], [x.g], [x.m], [x.v], [], [torch.tensor(row.step, dtype=torch.float32)],
        lr=row.lr, beta1=row.a, beta2=row.b, weight_decay=weight_decay, eps=row.eps, amsgrad=False, maximize=False,
    )  # fmt: skip


def _adamw(x: Operands, row: Row) -> None:
    _fused(x, row, row.weight_decay, torch._fused_adamw_)


def _adamw_after(x: Operands, row: Row) -> None:
    _fused(x, row, 0.0, torch._fused_adamw_)
    _decay(x, row)


def _adam(x: Operands, row: Row) -> None:
    _fused(x, row, row.weight_decay, torch._fused_adam_)


def _decay(x: Operands, row: Row) -> None:
    if row.weight_decay:
        x.p.mul_(1.0 - row.lr * row.weight_decay)


def _decayed(x: Operands, row: Row) -> Tensor:
    """g + wd·p."""
    return torch.add(x.g, x.p, alpha=row.weight_decay, out=x.b) if row.weight_decay else x.g


def _lion(x: Operands, row: Row) -> None:
    _decay(x, row)
    # The sign, by clamping: torch.sign makes 0 of NaN. 2^149 lifts the smallest float32 to 1.
    torch.lerp(x.g, x.m, row.a, out=x.a).mul_(2.0**100).mul_(2.0**49).clamp_(-1.0, 1.0)
    x.p.add_(x.a, alpha=-row.lr)
    x.m.lerp_(x.g, 1.0 - row.b)


def _sgd(x: Operands, row: Row) -> None:
    x.m.mul_(row.a).add_(_decayed(x, row), alpha=1.0 - row.b)
    x.p.add_(x.m, alpha=-row.lr)


def _sgd_nesterov(x: Operands, row: Row) -> None:
    g = _decayed(x, row)
    x.m.mul_(row.a).add_(g, alpha=1.0 - row.b)
    x.p.add_(torch.add(g, x.m, alpha=row.a, out=x.a), alpha=-row.lr)


def _over_root(x: Operands, g: Tensor, row: Row) -> Tensor:
    """g / (√v + eps)."""
    return torch.div(g, torch.sqrt(x.v, out=x.a).add_(row.eps), out=x.a)


def _rmsprop(x: Operands, row: Row) -> None:
    g = _decayed(x, row)
    x.v.mul_(row.b).addcmul_(g, g, value=1.0 - row.b)
    x.p.add_(_over_root(x, g, row), alpha=-row.lr)


def _rmsprop_momentum(x: Operands, row: Row) -> None:
    g = _decayed(x, row)
    x.v.mul_(row.b).addcmul_(g, g, value=1.0 - row.b)
    x.m.mul_(row.a).add_(_over_root(x, g, row))
    x.p.add_(x.m, alpha=-row.lr)


def _adagrad(x: Operands, row: Row) -> None:
    g = _decayed(x, row)
    x.v.addcmul_(g, g)
    x.p.add_(_over_root(x, g, row), alpha=-row.lr)


UPDATES: dict[str, Callable[[Operands, Row], None]] = {
    "adamw": _adamw,
    "adamw_after": _adamw_after,
    "adam": _adam,
    "lion": _lion,
    "sgd": _sgd,
    "sgd_nesterov": _sgd_nesterov,
    "rmsprop": _rmsprop,
    "rmsprop_momentum": _rmsprop_momentum,
    "adagrad": _adagrad,
}
