"""Adafactor: second moments as the product of a row and a column (Shazeer & Stern, arXiv 1804.04235).

    ρ = min(lr, 1 / sqrt(t)) or lr         α = max(ε₂, rms(p)) · ρ or ρ
    u = g / sqrt(V̂), clipped                V̂: factored over the last two axes (optim/factored.py), whole for vectors
    m ← m + (1 - β₁)(u - m)                 with momentum alone; then u is m
    p ← p - lr · weight_decay · p - α · u

V̂'s factors are float32: for matrices they are a few thousandths of a byte per parameter. Vectors have a whole v, which
is coded by `state`'s second codec; m by its first, without whitening, since it averages updates, not gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from narrowgauge.kernels.codecs import second_moment
from narrowgauge.kernels.moments import MomentCodec
from narrowgauge.kernels.random_words import SECOND
from narrowgauge.kernels.stored_moments import read_moments, write_moments
from narrowgauge.optim.codec import State, codec_names, empty_moments, moments_of, stored
from narrowgauge.optim.factored import (
    clipped_update,
    factor_shapes,
    factored_estimate,
    root_mean_square,
    update_factors,
)
from narrowgauge.optim.local import local_tensor, shape_of
from narrowgauge.optim.options import Options, at_least_zero
from narrowgauge.optim.sharded import local_value
from narrowgauge.optim.whole import WholeTensorOptimizer, check_fraction

VARIANCE = ("", "variance")
FACTORS = ("row_var", "col_var")


class Adafactor(WholeTensorOptimizer):
    """Adafactor, by default with the semantics of torch.optim.Adafactor.

    lr, beta2_decay, eps, d, weight_decay: as in torch.optim.Adafactor; eps = (ε₁, ε₂), ε₁ None for the epsilon of the
    parameter's dtype. relative_step: False takes ρ = lr instead of min(lr, 1 / sqrt(t)); scale_parameter: False leaves
    rms(p) out of α; both False is the form that takes an external schedule. beta1: momentum, 0 for none.

    Options: those of `Options`. State per parameter: row_var and col_var, or variance under `state`'s second codec for
    parameters of at most one axis; exp_avg under the first codec where beta1 > 0.
    """

    torch_class: ClassVar[type[Optimizer] | None] = torch.optim.Adafactor

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        beta1: float = 0.0,
        relative_step: bool = True,
        scale_parameter: bool = True,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "beta1": beta1,
            "relative_step": relative_step,
            "scale_parameter": scale_parameter,
        }
        super().__init__(params, defaults, **options)

    def moment_keys(self, group: Mapping[str, Any]) -> tuple[str, str]:
        return ("exp_avg", "") if group["beta1"] else ("", "")

    def check_group(self, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        codec_names(group["state"])
        at_least_zero(group, "weight_decay")
        check_fraction(group, "beta1")
        if not float(group["beta2_decay"]) <= 0.0:
            raise ValueError(f"beta2_decay: got {group['beta2_decay']}, accepted are numbers <= 0")
        if not float(group["d"]) >= 1.0:
            raise ValueError(f"d: got {group['d']}, accepted are numbers >= 1")
        eps = group["eps"]
        if len(eps) != 2 or not all(part is None or float(part) >= 0.0 for part in eps) or eps[1] is None:
            raise ValueError(f"eps: got {eps!r}, accepted are (None or a number >= 0, a number >= 0)")

    def extra_state(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        shape, home = shape_of(p), self.state_device(p, group)
        if len(shape) < 2:
            return empty_moments(moments_of(group["state"], VARIANCE), shape, home)
        return {key: torch.zeros(part, device=home) for key, part in zip(FACTORS, factor_shapes(shape), strict=True)}

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], gradients: Iterator[Tensor]) -> None:
        lr, beta1 = float(group["lr"]), float(group["beta1"])
        for p, g in zip(params, gradients, strict=True):
            step = self.step_of(p)
            eps = torch.finfo(p.dtype).eps if group["eps"][0] is None else float(group["eps"][0])
            rate = min(lr, 1.0 / sqrt(step)) if group["relative_step"] else lr
            if group["scale_parameter"]:
                rate *= max(float(group["eps"][1]), root_mean_square(self.weight(p)))
            estimate = self._estimate(p, group, g, step ** float(group["beta2_decay"]), eps)
            update = clipped_update(g, estimate, eps, float(group["d"]))
            if beta1:
                update = self.momentum_of(p, group).lerp_(update, 1.0 - beta1)
                self.write(p, group, update, None)
            self.descend(p, group, update, rate)

    def _estimate(self, p: Tensor, group: Mapping[str, Any], g: Tensor, rate: float, eps: float) -> Tensor:
        """V̂, after the state has taken up g."""
        state = self.state[p]
        if g.ndim > 1:
            row, column = state["row_var"], state["col_var"]
            update_factors(row, column, g.to(row.device), rate)
            return factored_estimate(row, column, eps).to(g.device)
        return self._variance(p, group, g, rate)

    def _variance(self, p: Tensor, group: Mapping[str, Any], g: Tensor, rate: float) -> Tensor:
        """The second moment of a vector, after it has taken up g and been stored."""
        step = self.step_of(p)
        v = self._read_variance(p, group).lerp_(g.square(), rate)
        self._write_variance(self.state[p], p, group, v, step)
        return v

    def _read_variance(self, p: Tensor, group: Mapping[str, Any]) -> Tensor:
        codec, into = _variance_codec(group), stored(self.state[p], "variance")
        key, local = self.key(p, group, SECOND, self.step_of(p) - 1), local_tensor(p)
        _, v = read_moments(None, codec, None, into, local.tensor.shape, (0, key), local.offset)
        if v is None:
            raise ValueError("state: a vector's second moment is missing")
        return v.to(local.tensor.device)

    def _write_variance(self, state: State, p: Tensor, group: Mapping[str, Any], v: Tensor, step: int) -> None:
        key, home = self.key(p, group, SECOND, step), self.state_device(p, group)
        into, offset = stored(state, "variance"), local_tensor(p).offset
        write_moments(None, _variance_codec(group), None, v.to(home), None, into, (0, key), offset)

    def state_from_torch(self, saved: Mapping[str, Any], p: Tensor, group: Mapping[str, Any]) -> State:
        """The factors as they are, or a vector's second moment encoded."""
        is_factored = p.ndim > 1
        shapes = dict(zip(FACTORS, factor_shapes(p.shape), strict=True)) if is_factored else {"variance": p.shape}
        if set(saved) != shapes.keys() | {"step"} or any(saved[key].shape != shape for key, shape in shapes.items()):
            got = ", ".join(f"{key} {tuple(value.shape)}" for key, value in saved.items())
            raise ValueError(f"state_dict: expected step, {', '.join(sorted(shapes))} of {tuple(p.shape)}, got {got}")
        state = self.new_state(p, group)
        for key in ("step", *FACTORS) if is_factored else ("step",):
            state[key].copy_(local_value(torch.as_tensor(saved[key]).detach(), p, key))
        if not is_factored:
            variance = local_value(saved["variance"].detach(), p, "variance").float()
            self._write_variance(state, p, group, variance, int(state["step"]))
        return state

    def moments_to_torch(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        """step and the factors, or a vector's second moment decoded; a momentum has no place in torch's state."""
        state = self.state[p]
        if p.ndim > 1:
            return {key: state[key].detach().clone() for key in ("step", *FACTORS)}
        return {"step": state["step"].detach().clone(), "variance": self._read_variance(p, group)}


def _variance_codec(group: Mapping[str, Any]) -> MomentCodec:
    return second_moment(codec_names(group["state"])[1])
