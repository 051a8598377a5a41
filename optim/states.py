"""The states of an optimizer: how a parameter's moments are laid out, read and written, and how it takes an update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from narrowgauge.kernels.random_words import FIRST, SECOND, WEIGHT
from narrowgauge.kernels.stored_moments import read_moments, write_moments
from narrowgauge.optim.codec import Moments, State, empty_moments, moments_of, plain_option, stored
from narrowgauge.optim.local import local_tensor, shape_of
from narrowgauge.optim.master import subtract
from narrowgauge.optim.rows import key_at
from narrowgauge.optim.saved import moments_from_torch


class StoredStates(Optimizer):
    """The part of `CompressedOptimizer` (optim/base.py) that looks after states."""

    moment_names: ClassVar[tuple[str, str]] = ("exp_avg", "exp_avg_sq")
    """Names of the first and the second moment in the state, "" for one that there is not."""
    related: ClassVar[bool] = True
    """Whether the first moment is of the size of the second's root (as Adam's), so that log8 and log4 may store m / √v.
    """

    def _forget(self) -> None:
        """Empties what is kept from call to call, and follows from groups alone."""
        self._layouts: dict[Any, Moments] = {}
        self._positions: dict[Tensor, int] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._forget()
        super().__setstate__(state)

    def moment_keys(self, group: Mapping[str, Any]) -> tuple[str, str]:
        """`moment_names`, for optimizers whose moments depend on the group's options."""
        return self.moment_names

    def moment_shape(self, p: Tensor, group: Mapping[str, Any]) -> torch.Size:
        """Shape of a parameter's moments: that of its local part."""
        return shape_of(p)

    def extra_state(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        """State tensors beside the moments, as they are before the first step. They are saved as they are."""
        return {}

    def moments_of(self, group: Mapping[str, Any]) -> Moments:
        """How moments of a group are stored."""
        key = plain_option(group["state"]), self.moment_keys(group)
        if key not in self._layouts:
            self._layouts[key] = moments_of(*key, self.related)
        return self._layouts[key]

    def group_of(self, p: Tensor) -> dict[str, Any]:
        """The group of a parameter; KeyError if the optimizer does not have it."""
        for group in self.param_groups:
            if any(q is p for q in group["params"]):
                return group
        raise KeyError("p: this parameter has no state; it is not the optimizer's, or has not been stepped")

    def step_of(self, p: Tensor) -> int:
        """The number, from 1, of the step that is being made (or would be made next)."""
        return int(self.state[p]["step"]) + 1

    def position(self, p: Tensor) -> int:
        """Index of a parameter over all groups in order."""
        if p not in self._positions:
            every = (q for group in self.param_groups for q in group["params"])
            self._positions = {q: index for index, q in enumerate(every)}
        return self._positions[p]

    def key(self, p: Tensor, group: Mapping[str, Any], purpose: int, step: int) -> int:
        """The key of a parameter's stochastic rounding at a step (kernels/random_words.py)."""
        return key_at(group["seed"], self.position(p), purpose, step)

    def read(self, p: Tensor, group: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        """m and v as they read back, float32 of `moment_shape` on the parameter's device; None for one there is not."""
        state, moments, local = self.state[p], self.moments_of(group), local_tensor(p)
        step = self.step_of(p) - 1
        keys = self.key(p, group, FIRST, step), self.key(p, group, SECOND, step)
        shape = self.moment_shape(p, group)
        m, v = (stored(state, key) for key in moments.keys)
        read = read_moments(moments.first, moments.second, m, v, shape, keys, local.offset)
        wide_m, wide_v = (None if x is None else x.to(local.tensor.device) for x in read)
        return wide_m, wide_v

    def write(
        self, p: Tensor, group: Mapping[str, Any], m: Tensor | None, v: Tensor | None, step: int | None = None
    ) -> None:
        """Stores m and v of the step that is being made (`step`: of another)."""
        self.encode(self.state[p], p, group, m, v, self.step_of(p) if step is None else step)

    def encode(
        self, state: State, p: Tensor, group: Mapping[str, Any], m: Tensor | None, v: Tensor | None, step: int
    ) -> None:
        """Stores m and v of a step in a parameter's `state`, which is laid out for the group."""
        moments = self.moments_of(group)
        keys = self.key(p, group, FIRST, step), self.key(p, group, SECOND, step)
        home = self.state_device(p, group)
        m, v = (None if x is None else x.to(home) for x in (m, v))
        into_m, into_v = (stored(state, key) for key in moments.keys)
        write_moments(moments.first, moments.second, m, v, into_m, into_v, keys, local_tensor(p).offset)

    def apply_update(self, p: Tensor, group: Mapping[str, Any], update: Tensor) -> None:
        """p ← p - update (float32, of the local shape), rounded as the group's `master` says."""
        local, residual = local_tensor(p), self.state[p].get("residual")
        key = self.key(p, group, WEIGHT, self.step_of(p))
        if residual is None or residual.device == local.tensor.device:
            subtract(local.tensor, update, group["master"], residual, key, local.offset)
            return
        moved = residual.to(local.tensor.device)
        subtract(local.tensor, update, group["master"], moved, key, local.offset)
        residual.copy_(moved)

    def state_device(self, p: Tensor, group: Mapping[str, Any]) -> torch.device:
        """Where a parameter's state lives."""
        return torch.device("cpu") if group["offload"] else p.device

    def new_state(self, p: Tensor, group: Mapping[str, Any]) -> State:
        """The state of a parameter before its first step."""
        state = self.empty_state(p, group)
        home, shape = self.state_device(p, group), self.moment_shape(p, group)
        state.update(empty_moments(self.moments_of(group), shape, home))
        return self.at_home(state, p, group)

    def empty_state(self, p: Tensor, group: Mapping[str, Any]) -> State:
        """`new_state` without the moments: step, residual and the subclass's own tensors."""
        state: State = {"step": torch.zeros((), device=p.device if group["capturable"] else "cpu")}
        if group["master"] == "residual":
            state["residual"] = torch.zeros(shape_of(p), dtype=torch.int8, device=self.state_device(p, group))
        return {**state, **self.extra_state(p, group)}

    def state_from_torch(self, saved: Mapping[str, Any], p: Tensor, group: Mapping[str, Any]) -> State:
        """What a parameter's state in the counterpart becomes: moments encoded, the residual (if any) zero."""
        keys = self.moment_keys(group)
        read = moments_from_torch(keys, saved, p, self.moment_shape(p, group))
        state = self.new_state(p, group)
        state["step"].copy_(read["step"])
        m, v = (read.get(key) for key in keys)
        self.encode(state, p, group, m, v, int(state["step"]))
        return state

    def moments_to_torch(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        """A parameter's state as the counterpart in torch.optim has it."""
        pairs = zip(self.moment_keys(group), self.read(p, group), strict=True)
        moments = {key: moment for key, moment in pairs if moment is not None}
        return {"step": self.state[p]["step"].detach().clone(), **moments}

    def at_home(self, state: State, p: Tensor, group: Mapping[str, Any]) -> State:
        """The state with pinned memory where states of a GPU's parameter are offloaded."""
        if not group["offload"] or p.device.type == "cpu":
            return state
        return {key: t.pin_memory() if t.device.type == "cpu" and t.ndim else t for key, t in state.items()}
