"""What all optimizers of this package share: compressed states, the ways to keep a weight, clipping, saving, loading.

A subclass names its moments and makes a step of a group's parameters:

    class Mine(CompressedOptimizer):
        moment_names = ("exp_avg", "")                       # first and second moment; "" for one that there is not

        def __init__(self, params, lr=1e-3, *, decay=0.9, **options: Unpack[Options]):
            super().__init__(params, {"lr": lr, "decay": decay}, **options)

        def _step_parameters(self, group, params, gradients):
            for p, g in zip(params, gradients):              # g: float32, scaled, signed, of the local shape
                m, _ = self.read(p, group)
                m.lerp_(g, 1 - group["decay"])
                self.apply_update(p, group, group["lr"] * m)  # p ← p - update through the group's master
                self.write(p, group, m, None)

`read`, `write` and `apply_update` are those of optim/states.py. `state["step"]` counts finished steps; it is raised
after the step, so `step_of(p)` is the number of the one being made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from narrowgauge.optim.codec import State, plain_option
from narrowgauge.optim.explanation import Explanation, GroupRow
from narrowgauge.optim.gradients import Work, check_gradients, global_norm, gradient_of
from narrowgauge.optim.local import shape_of
from narrowgauge.optim.memory import StateBytes, StaticBytes, live_bytes, total_bytes
from narrowgauge.optim.options import DEFAULT_OPTIONS, Options, check_common, check_parameters
from narrowgauge.optim.saved import loaded_dict, torch_dict
from narrowgauge.optim.sharded import has_shards, note, share
from narrowgauge.optim.states import StoredStates


class CompressedOptimizer(StoredStates):
    """Base class of optimizers whose states are stored in few bits.

    params: parameters, named parameters or groups of them, each float32, bfloat16 or float16, of any shape and strides;
    DTensors are stepped shard by shard. defaults: the subclass's own options, `lr` among them, a number or a tensor of
    one element. options: those of `Options`, common to all.

    Raises ValueError and TypeError, naming the argument, for options out of range, unknown codecs (with the nearest
    names), other parameter dtypes, and, in `step`, for sparse gradients, before anything has changed.
    """

    torch_class: ClassVar[type[Optimizer] | None] = None
    """The counterpart in torch.optim whose state dicts load, and are given by `torch_state_dict`."""
    unsupported: ClassVar[tuple[str, ...]] = ("differentiable",)
    """Options of the counterpart that change what a step computes, and that are refused unless they are off."""
    has_eco: ClassVar[bool] = False
    """Whether master="eco:SCHEME" is defined for the update rule."""
    can_capture: ClassVar[bool] = False
    """Whether `_step_group` waits for nothing, which `capturable` asks for."""

    def __init__(self, params: ParamsT, defaults: Mapping[str, Any], **options: Unpack[Options]) -> None:
        unknown = options.keys() - DEFAULT_OPTIONS.keys()
        if unknown:
            raise TypeError(
                f"{type(self).__name__}: unknown options {', '.join(sorted(unknown))}; common to all optimizers are "
                f"{', '.join(DEFAULT_OPTIONS)}"
            )
        self._forget()
        super().__init__(params, {**DEFAULT_OPTIONS, **options, **defaults})

    # What subclasses change; of the states, optim/states.py has more.

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for options that a group cannot have; subclasses add their own."""
        check_common(group, self.has_eco)
        for name in self.unsupported:
            if group.get(name):
                raise ValueError(f"{name}: this optimizer does not have torch's {name}; leave it False")
        self.moments_of(group)
        if group["capturable"] and not self.can_capture:
            raise ValueError(f"capturable: {type(self).__name__} makes its steps on the host; leave it False")
        if group["compiled"] and self.unfused_reason(group):
            raise ValueError(f"compiled: {self.unfused_reason(group)}; leave it False")

    def check_parameters(self, group: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError, naming the parameter, for parameters that the group cannot have."""
        check_parameters(group)

    def rule_name(self, group: Mapping[str, Any]) -> str:
        """What `explain` calls the update rule."""
        return type(self).__name__.lower()

    def unfused_reason(self, group: Mapping[str, Any]) -> str:
        """Why the group's step is not one call of the operator; "" where it is."""
        return "the update is not elementwise"

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], gradients: Iterator[Tensor]) -> None:
        """One step of parameters of one group. gradients: of the same order, made one by one: float32, of the local
        shape, clipped, downhill, without values that are not finite where they are skipped; free to be overwritten.

        Every subclass defines it, or makes its steps in `_step_group`.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no step")

    def _step_group(self, group: dict[str, Any], params: list[Tensor], scale: Any) -> None:
        """One step of parameters of one group, whose gradients count `scale` times."""
        gradients = (self.gradient(p, group, scale) for p in params)
        self._step_parameters(group, params, gradients)

    def gradient(self, p: Tensor, group: Mapping[str, Any], scale: Any = 1.0) -> Tensor:
        """The local gradient as the update rule takes it, a float32 tensor of its own."""
        g = gradient_of(p).to(torch.float32, copy=True)
        if group["nonfinite"] == "skip":
            g = torch.where(torch.isfinite(g), g, 0.0)
        if isinstance(scale, Tensor) or scale != 1.0:
            g.mul_(scale)
        return g.neg_() if group["maximize"] else g

    # torch.optim.Optimizer.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters; options that it does not name are those of the constructor."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self.check_group(group)
            self.check_parameters(group)
            # As text, so that a state_dict holds plain data alone.
            group["state"] = plain_option(group["state"])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient; returns what `closure` (called first) returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step_all([(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups])
        return loss

    @torch.no_grad()
    def step_parameter(self, p: Tensor) -> None:
        """The step of one parameter alone, with the bits that `step` gives it. ValueError where the optimizer clips by
        the norm of all gradients, or does not have the parameter."""
        group = self.group_of(p)
        if group["clip_norm"] is not None:
            raise ValueError("clip_norm: the norm needs all gradients, one parameter alone cannot be stepped")
        if p.grad is not None:
            self._step_all([(group, [p])])

    def _step_all(self, work: Work) -> None:
        check_gradients(work)
        norm = self._norm(work)
        for group, params in work:
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p].update(self.new_state(p, group))
            self._step_group(group, params, self._scale(group, norm))
            torch._foreach_add_([self.state[p]["step"] for p in params], 1.0)

    def _norm(self, work: Work) -> Tensor | None:
        """The norm of all gradients whose group clips; None where none does."""
        clipped = [(group, params) for group, params in work if group["clip_norm"] is not None]
        if not clipped:
            return None
        wait = not (torch.compiler.is_compiling() or any(group["capturable"] for group, _ in clipped))
        return global_norm((p for _, params in clipped for p in params), wait)

    def _scale(self, group: Mapping[str, Any], norm: Tensor | None) -> Any:
        """What a group's gradients are multiplied by: a float, or on other devices than the CPU a tensor."""
        if norm is None or group["clip_norm"] is None:
            return 1.0
        scale = (group["clip_norm"] / (norm.double() + 1e-6)).clamp(max=1.0)
        on_host = norm.device.type == "cpu" and not torch.compiler.is_compiling()
        return float(scale) if on_host else scale

    # What users ask.

    def moments(self, p: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """m and v of a parameter as they read back, float32; None for a moment that the update rule does not have.
        KeyError if it has not been stepped."""
        group = self.group_of(p)
        if not self.state.get(p):
            raise KeyError("p: this parameter has no state; it is not the optimizer's, or has not been stepped")
        return self.read(p, group)

    def state_bytes(self) -> StateBytes:
        """Memory of all states that exist (every tensor of them, residual and step too), and for how many parameter
        elements."""
        stepped = [(p, state) for p, state in self.state.items() if state]
        tensors = (t for _, state in stepped for t in state.values() if isinstance(t, Tensor))
        return StateBytes(total_bytes(tensors), sum(shape_of(p).numel() for p, _ in stepped))

    def static_bytes(self) -> StaticBytes:
        """Memory that training holds between steps: weights, residuals, states and gradients, each storage counted
        once, as it is now: measure after a backward pass for the gradients to be there."""
        params = [p for group in self.param_groups for p in group["params"]]
        return live_bytes(params, self.state)

    def explain(self) -> Explanation:
        """Per group: update rule, how moments and weights are stored, bytes per parameter, and how the step runs."""
        rows = []
        for index, group in enumerate(self.param_groups):
            moments, reason = self.moments_of(group), self.unfused_reason(group)
            devices = sorted({str(self.state_device(p, group)) for p in group["params"]})
            how = f"whole tensors: {reason}" if reason else self._fused_on(group)
            elements = sum(p.numel() for p in group["params"])
            kept = sum(self.moment_shape(p, group).numel() for p in group["params"])
            local = sum(shape_of(p).numel() for p in group["params"])
            size = moments.bytes_per_parameter * kept / local if local else moments.bytes_per_parameter
            size += group["master"] == "residual"
            names = (moments.names[0] or "none", moments.names[1] or "none")
            runs = f"{how}, on {', '.join(devices)}{note(group['params'], moments)}"
            rows.append(GroupRow(index, elements, self.rule_name(group), *names, group["master"], size, runs))
        return Explanation(type(self).__name__, tuple(rows))

    def _fused_on(self, group: Mapping[str, Any]) -> str:
        return "fused, compiled by torch.compile" if group["compiled"] else "fused, optimizer_step"

    # Saving and loading.

    def torch_state_dict(self) -> dict[str, Any]:
        """The state decoded, as a dict that the counterpart in torch.optim loads: moments in float32.

        What is lost: nothing of what the moments read back as; the residual of master="residual", which torch has no
        place for (less than half an ulp of each bfloat16 parameter). TypeError for an optimizer without counterpart.
        """
        return torch_dict(self)

    def state_dict(self) -> dict[str, Any]:
        """As torch's: references to the states, which are plain tensors. Those of a DTensor that is cut are DTensors
        (optim/sharded.py), which torch.distributed.checkpoint saves and loads; some of them are copies, so
        `load_state_dict` has to follow a load in place."""
        if not has_shards([p for group in self.param_groups for p in group["params"]]):
            return super().state_dict()

        def exchange(_: Optimizer, result: dict[str, Any]) -> None:
            share(self, result["state"])

        hook = self.register_state_dict_post_hook(exchange, prepend=True)
        try:
            return super().state_dict()
        finally:
            hook.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` gave, every dtype kept (torch alone would cast codes and scales to the parameter's).

        Options, `state` among them, become the saved ones, as in torch. A dict of the counterpart in torch.optim, which
        does not know `state`, keeps this optimizer's: its moments are encoded, which costs what one store of the codec
        costs (docs/optimizers.md has the errors; with "fp32" nothing). ValueError, before anything changes, where a
        state does not fit its parameter.
        """
        loaded: dict[Tensor, State] = {}

        def check(_: Optimizer, final: dict[str, Any]) -> dict[str, Any]:
            complete, states = loaded_dict(self, final)
            loaded.update(states)
            return complete

        def restore(_: Optimizer) -> None:
            self.state.update(loaded)

        # After the caller's own hooks, which may change the dict, and before those that look at the result.
        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(restore, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()
