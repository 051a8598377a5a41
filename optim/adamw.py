"""AdamW whose moments are kept in few bits.

    p ← p · (1 - lr · weight_decay)
    m ← β₁ m + (1 - β₁) g          v ← β₂ v + (1 - β₂) g²
    p ← p - lr / (1 - β₁^t) · m / (sqrt(v) / sqrt(1 - β₂^t) + eps)

Arithmetic is float32 whatever the parameter's dtype; the update uses the fresh m and v, and they are rounded when they
are stored. The step itself is the operator `adamw_step` (kernels/adamw.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from narrowgauge.kernels.adamw import ADAMW_STEP, PARAMETER_DTYPES
from narrowgauge.optim.codec import (
    StateBytes,
    StateOption,
    codec_names,
    decoded_moments,
    loaded_state,
    new_state,
    plain_option,
)

UNSUPPORTED_OPTIONS = ("amsgrad", "capturable", "differentiable")
"""Options of torch.optim.AdamW that change what a step computes, and that this optimizer refuses."""


class AdamW(Optimizer):
    """AdamW with compressed states, otherwise torch.optim.AdamW's semantics (Loshchilov & Hutter, arXiv 1711.05101).

    params: parameters, named parameters or groups of them, each float32, bfloat16 or float16, of any shape and strides.
    A group may override every option. lr: a number, or a tensor of one element.
    state: how the moments are stored, both alike or (m, v):

    | state    | m                          | v                                | bytes per parameter |
    |----------|----------------------------|----------------------------------|---------------------|
    | coat     | E4M3, range expanded       | E4M3, range expanded             | 2.125               |
    | fp8      | E4M3, scale per 256        | E4M3, scale per 256              | 2.031               |
    | int8     | int8, scale per 128        | root of v, uint8, scale per 128  | 2.0625              |
    | dynamic8 | 8-bit dynamic tree per 256 | unsigned dynamic tree per 256    | 2.031               |
    | bf16     | bfloat16                   | bfloat16                         | 4                   |
    | fp32     | float32                    | float32                          | 8                   |

    Any number format of at most 8 bits serves as well: state=("nf4/1x128", "udynamic8/1x256"), by the text of a scheme
    or a `Scheme`, with groups 1xG of the flattened parameter (G a power of two up to 1024) and the rule amax; unsigned
    formats for v alone. A positive v never reads back as zero, whatever the format.

    `coat_paper` is coat with the paper's range instead of the authors' kernel's. kernels/moments.py defines them all.
    Every parameter is compressed, however small. A NaN or an infinite gradient reaches p as in torch's AdamW; in the
    states it stays within its group.

    `fp32` on the CPU gives the bits of torch.optim.AdamW(fused=True); the default torch.optim.AdamW differs from those
    by an ulp of the update in about one element of 10^5, because it contracts multiplications and additions elsewhere.

    Raises ValueError and TypeError, naming the argument, for options out of range, unknown codecs (with the nearest
    names), other parameter dtypes, and, in `step`, for sparse gradients, before anything has changed.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        state: StateOption = "coat",
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "state": state,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters; options that it does not name are those of the constructor."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1])
            # As text, so that a state_dict holds plain data alone.
            self.param_groups[-1]["state"] = plain_option(self.param_groups[-1]["state"])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _gradients(self) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """(parameter, gradient, group) of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    yield p, p.grad, group

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient; returns what `closure` (called first) returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p, gradient, group in self._gradients():
            if gradient.layout is not torch.strided:
                raise ValueError(
                    f"params: {_name_of(p, group)} has a {gradient.layout} gradient; accepted are dense ones, such as "
                    "those of Embedding(sparse=False)"
                )
        for p, gradient, group in self._gradients():
            self._step_parameter(p, gradient, group)
        return loss

    def _step_parameter(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        names = codec_names(group["state"])
        state = self.state[p]
        if not state:
            state.update(new_state(p, names))
        state["step"] += 1
        beta1, beta2 = group["betas"]
        ADAMW_STEP(
            p,
            gradient,
            state["exp_avg"],
            state.get("exp_avg_scale"),
            state["exp_avg_sq"],
            state.get("exp_avg_sq_scale"),
            *names,
            int(state["step"]),
            float(group["lr"]),
            float(beta1),
            float(beta2),
            float(group["eps"]),
            float(group["weight_decay"]),
            group["maximize"],
        )

    def moments(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """m and v of a parameter as they read back: float32, of its shape. KeyError if it has not been stepped."""
        state = self.state.get(p)
        group = next((g for g in self.param_groups if any(q is p for q in g["params"])), None)
        if not state or group is None:
            raise KeyError("p: this parameter has no state; it is not the optimizer's, or has not been stepped")
        return decoded_moments(state, codec_names(group["state"]))

    def state_bytes(self) -> StateBytes:
        """Memory of all states that exist (every tensor of them), and for how many parameter elements."""
        stepped = [(p, state) for p, state in self.state.items() if state]
        total = sum(t.nbytes for _, state in stepped for t in state.values())
        return StateBytes(total, sum(p.numel() for p, _ in stepped))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` gave, every dtype kept (torch alone would cast codes and scales to the parameter's).

        Options, `state` among them, become the saved ones, as in torch; a dict of torch.optim.AdamW, which does not
        know `state`, loads into `fp32`. ValueError, before anything changes, where a state does not fit its parameter.
        """
        loaded: dict[Tensor, dict[str, Any]] = {}

        def check(_: Optimizer, final: dict[str, Any]) -> dict[str, Any]:
            complete = self._with_own_options(final)
            loaded.update(self._loaded_states(complete))
            return complete

        def restore(_: Optimizer) -> None:
            for p, state in loaded.items():
                self.state[p] = state

        # After the caller's own hooks, which may change the dict, and before those that look at the result.
        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(restore, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _with_own_options(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The dict with options that its groups lack taken from this optimizer's."""
        groups = []
        for position, saved in enumerate(state_dict["param_groups"]):
            own = self.param_groups[position] if position < len(self.param_groups) else {}
            missing = {key: own[key] for key in ("state", "maximize") if key in own and key not in saved}
            groups.append({**saved, **missing})
            _check_options(groups[-1])
        return {**state_dict, "param_groups": groups}

    def _loaded_states(self, state_dict: Mapping[str, Any]) -> dict[Tensor, dict[str, Any]]:
        states = {}
        for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=False):  # torch refuses others
            names = codec_names(saved["state"])
            for key, p in zip(saved["params"], own["params"], strict=False):
                if key in state_dict["state"]:
                    states[p] = loaded_state(state_dict["state"][key], p, names)
        return states


def _name_of(p: Tensor, group: Mapping[str, Any]) -> str:
    position = next(index for index, q in enumerate(group["params"]) if q is p)
    names = group.get("param_names")
    return repr(names[position]) if names else f"parameter {position} of its group, of shape {tuple(p.shape)},"


def _check_group(group: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for options and parameters that a group cannot have."""
    _check_options(group)
    for p in group["params"]:
        if p.dtype not in PARAMETER_DTYPES:
            accepted = ", ".join(str(dtype) for dtype in PARAMETER_DTYPES)
            raise TypeError(f"params: {_name_of(p, group)} has dtype {p.dtype}; accepted are {accepted}")


def _check_options(group: Mapping[str, Any]) -> None:
    lr, betas = group["lr"], group["betas"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr: expected a number or a tensor of one element, got one of shape {tuple(lr.shape)}")
    if not float(lr) >= 0.0:
        raise ValueError(f"lr: got {float(lr)}, accepted are numbers >= 0")
    if len(betas) != 2 or not all(0.0 <= float(beta) < 1.0 for beta in betas):
        raise ValueError(f"betas: got {betas!r}, accepted are two numbers in [0, 1)")
    for name in ("eps", "weight_decay"):
        if not float(group[name]) >= 0.0:
            raise ValueError(f"{name}: got {group[name]}, accepted are numbers >= 0")
    for name in UNSUPPORTED_OPTIONS:
        if group.get(name):
            raise ValueError(f"{name}: this optimizer does not have torch's {name}; leave it False")
    codec_names(group["state"])
