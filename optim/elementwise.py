"""Optimizers whose update rule is elementwise: one call of the operator `optimizer_step` for all tensors of a group.

A subclass says which rule of kernels/step_rules.py a group runs and what numbers go into its rows. Codecs that the
operator does not store (int4, solo) and ECO take the whole-tensor way: the moments are read into float32, the same
operator steps them as `fp32`, and they are stored again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from narrowgauge.kernels.optimizer_step import OPTIMIZER_STEP, in_flat
from narrowgauge.kernels.step_rules import RULES
from narrowgauge.optim.base import CompressedOptimizer
from narrowgauge.optim.codec import Moments
from narrowgauge.optim.eco import check_grid, give_back, grid_of
from narrowgauge.optim.gradients import gradient_of
from narrowgauge.optim.local import Local, local_tensor
from narrowgauge.optim.options import ECO
from narrowgauge.optim.rows import Draws, Numbers, device_rows, host_rows, stages


class ElementwiseOptimizer(CompressedOptimizer):
    """Base class of AdamW, Adam, Lion, SGD, RMSprop and Adagrad, each of which defines `rule` and `numbers`."""

    can_capture = True

    def rule(self, group: Mapping[str, Any]) -> str:
        """The rule of a group, a name of kernels/step_rules.RULES."""
        raise NotImplementedError(f"{type(self).__name__} names no rule")

    def numbers(self, group: Mapping[str, Any], step: Any, lr: Any) -> Numbers:
        """The numbers of a row. step: t, a float, or a float64 tensor [tensors]; lr: a float or a tensor."""
        raise NotImplementedError(f"{type(self).__name__} has no numbers")

    def moment_keys(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """The names of the moments that the group's rule has."""
        has = RULES[self.rule(group)]
        return self.moment_names[0] if has.first else "", self.moment_names[1] if has.second else ""

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for options that a group cannot have."""
        super().check_group(group)
        if group["master"].startswith(ECO):
            check_grid(group["master"])
        if group["capturable"] and self.unfused_reason(group):
            raise ValueError(
                f"capturable: a step of whole tensors waits for the host ({self.unfused_reason(group)}); leave it False"
            )

    def rule_name(self, group: Mapping[str, Any]) -> str:
        return self.rule(group)

    def unfused_reason(self, group: Mapping[str, Any]) -> str:
        """Why the group's step is not one call of the operator; "" where it is."""
        if group["master"].startswith(ECO):
            return "ECO gives the rounding error of the weights to the momentum"
        moments = self.moments_of(group)
        if not moments.present and RULES[self.rule(group)].first:
            return "without momentum there is no state to read or write"
        return moments.unfused

    def _forget(self) -> None:
        super()._forget()
        self._device_constants: dict[Any, tuple[Tensor, Tensor]] = {}

    def _step_group(self, group: dict[str, Any], params: list[Tensor], scale: Any) -> None:
        if self.unfused_reason(group):
            for p in params:
                self._step_whole(p, group, scale)
        elif group["offload"]:
            for p in params:
                self._step_on_host(p, group, scale)
        else:
            for device in dict.fromkeys(p.device for p in params):
                here = [p for p in params if p.device == device]
                local = [local_tensor(p) for p in here]
                rows = self._rows(group, here, local, scale, self.moments_of(group))
                self._step_fused(group, here, [part.tensor for part in local], [gradient_of(p) for p in here], rows)

    def _operator(self, group: Mapping[str, Any], device: torch.device) -> Callable[..., Any]:
        if group["compiled"] and device.type == "cpu":
            from narrowgauge.kernels._step_compiled import run  # torch's compiler is slow to import

            return in_flat(run)
        return OPTIMIZER_STEP

    def _step_fused(
        self, group: dict[str, Any], params: list[Tensor], weights: list[Tensor], gradients: list[Tensor], rows: Tensor
    ) -> None:
        """One call of the operator. weights, gradients: plain tensors on the device of the states."""
        moments, states = self.moments_of(group), [self.state[p] for p in params]
        tensors: list[list[Tensor]] = []
        for key, codec in zip(moments.keys, (moments.first, moments.second), strict=True):
            tensors.append([state[key] for state in states] if codec else [])
            tensors.append([state[f"{key}_scale"] for state in states] if codec and codec.columns else [])
        residuals = [state["residual"] for state in states] if group["master"] == "residual" else []
        self._operator(group, weights[0].device)(
            self.rule(group), weights, gradients, *tensors, residuals, *moments.names, group["master"], rows,
            group["maximize"], group["nonfinite"] == "skip",
        )  # fmt: skip

    def _step_on_host(self, p: Tensor, group: dict[str, Any], scale: Any) -> None:
        """One parameter whose state is on the host: the parameter and its gradient go there, the parameter back."""
        local, home = local_tensor(p), self.state_device(p, group)
        weight, gradient = local.tensor.to(home), gradient_of(p).to(home)
        rows = self._rows(group, [p], [local], scale, self.moments_of(group)).to(home)
        self._step_fused(group, [p], [weight], [gradient], rows)
        if weight is not local.tensor:
            local.tensor.copy_(weight)

    def _step_whole(self, p: Tensor, group: dict[str, Any], scale: Any) -> None:
        """One parameter by way of float32 moments, on its own device."""
        rule, local, grid = self.rule(group), local_tensor(p), grid_of(group["master"])
        has, (m, v) = RULES[rule], self.read(p, group)
        if has.first and m is None:
            m = torch.zeros_like(local.tensor, dtype=torch.float32)
        weight = local.tensor.to(torch.float32, copy=True) if grid else local.tensor  # ECO rounds the float32 result
        kept = self.state[p].get("residual")
        residual = [] if kept is None else [kept.to(local.tensor.device)]
        rows = self._rows(group, [p], [local], scale, None)
        first, second = ([] if x is None else [x] for x in (m, v))
        OPTIMIZER_STEP(
            rule, [weight], [gradient_of(p)], first, [], second, [], residual, "fp32" if has.first else "",
            "fp32" if has.second else "", "none" if grid else group["master"], rows, group["maximize"],
            group["nonfinite"] == "skip",
        )  # fmt: skip
        if grid and m is not None:
            group["eco_peak_lr"] = max(group.get("eco_peak_lr", 0.0), float(group["lr"]))
            numbers = self.numbers(group, float(self.step_of(p)), float(group["lr"]))
            give_back(weight, m, v, numbers, group["eco_peak_lr"], grid, local.tensor.dtype)
        if weight is not local.tensor:
            local.tensor.copy_(weight)
        if kept is not None and residual[0] is not kept:
            kept.copy_(residual[0])
        self.write(p, group, m, v)

    def _rows(
        self, group: Mapping[str, Any], params: list[Tensor], local: list[Local], scale: Any, moments: Moments | None
    ) -> Tensor:
        """The rows of a step, on the host unless something they need is on the device or must not be waited for.
        moments: how the operator stores them, None where it steps them as they are."""
        codecs = (moments.first, moments.second) if moments else (None, None)
        stored = [codec is not None and codec.draws for codec in codecs]
        dither = [codec is not None and codec.rounding == "dither" for codec in codecs]
        draws = Draws(stored[0], stored[1], group["master"] in ("sr", "residual"), dither[0], dither[1])
        positions, offsets = [self.position(p) for p in params], [part.offset for part in local]
        lr, device = group["lr"], params[0].device
        on_device = isinstance(scale, Tensor) or (isinstance(lr, Tensor) and lr.device.type != "cpu")
        tracing = torch.compiler.is_compiling()
        if not (group["capturable"] or tracing or on_device):
            counts = [self.step_of(p) for p in params]

            def numbers(step: float) -> Numbers:
                return self.numbers(group, step, float(lr))

            return host_rows(counts, numbers, positions, offsets, group["seed"], draws, scale)
        steps = torch.stack([self.state[p]["step"] for p in params]).to(device, torch.float64) + 1.0
        staged, places = self._constants(group["seed"], positions, offsets, device, tracing)
        return device_rows(steps, self.numbers(group, steps, lr), staged, places, draws, scale)

    def _constants(
        self, seed: int, positions: list[int], offsets: list[int], device: torch.device, tracing: bool
    ) -> tuple[Tensor, Tensor]:
        """`stages` and offsets on the device, kept from call to call: a captured step cannot copy from the host."""
        if tracing:
            return stages(seed, positions, device), torch.tensor(offsets, dtype=torch.float64, device=device)
        key = seed, tuple(positions), tuple(offsets), device
        if key not in self._device_constants:
            places = torch.tensor(offsets, dtype=torch.float64, device=device)
            self._device_constants[key] = stages(seed, positions, device), places
        return self._device_constants[key]
