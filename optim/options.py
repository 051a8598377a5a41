"""Options that every optimizer of this package has, per parameter group, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from narrowgauge.kernels.step_rules import MASTERS
from narrowgauge.optim.codec import StateOption
from narrowgauge.optim.local import cut_axis

PARAMETER_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NONFINITE = ("propagate", "skip", "raise")
ECO = "eco:"
"""What a `master` option that names a grid begins with."""


class Options(TypedDict, total=False):
    """Keyword arguments common to all optimizers; every parameter group may override each.

    state: how moments are stored (kernels/moments.py): a codec's name, a scheme, or a pair of them for m and v.
    master: how a parameter takes its update: "none" rounds it to the parameter's dtype to nearest; "sr" rounds it to
        bfloat16 stochastically; "residual" keeps 8 more bits of a bfloat16 parameter beside it; "eco:SCHEME" rounds it
        to a quantised grid and gives the error to the momentum (optim/eco.py).
    nonfinite: what a NaN or an infinity in a gradient does. "propagate": it goes into its parameter element and into
        the stored moments of its group, nowhere else; "skip": the element counts as a zero gradient; "raise":
        FloatingPointError before anything changes (waits for the device).
    clip_norm: gradients are multiplied by min(1, clip_norm / (norm + 1e-6)) on their way into the step, where norm is
        that of all gradients whose group has a clip_norm. Elements that are not finite do not count in it.
    seed: of stochastic roundings, 0 to 2^32 - 1; equal seeds give equal bits on every device and replica.
    maximize: steps uphill.
    capturable: `step` lives on the parameter's device and nothing waits for it, so that CUDA graphs can hold a step.
    compiled: the step of CPU parameters is compiled by torch.compile, once per codec and shape class.
    offload: states live in the host's memory (pinned for parameters of a GPU). The step runs there, parameter by
        parameter: gradient and parameter go there, the parameter comes back. Where a step is not fused (see `explain`),
        the states go to the parameter instead.
    """

    state: StateOption
    master: str
    nonfinite: str
    clip_norm: float | None
    seed: int
    maximize: bool
    capturable: bool
    compiled: bool
    offload: bool


DEFAULT_OPTIONS: Options = {
    "state": "coat",
    "master": "none",
    "nonfinite": "propagate",
    "clip_norm": None,
    "seed": 0,
    "maximize": False,
    "capturable": False,
    "compiled": False,
    "offload": False,
}


def given_name(p: Tensor, group: Mapping[str, Any]) -> str | None:
    """The name that the optimizer was given for a parameter of its group; None where it was given none."""
    names = group.get("param_names")
    return names[_place(p, group)] if names else None


def name_of(p: Tensor, group: Mapping[str, Any]) -> str:
    """How messages call a parameter of a group."""
    name = given_name(p, group)
    return f"parameter {_place(p, group)} of its group, of shape {tuple(p.shape)}," if name is None else repr(name)


def _place(p: Tensor, group: Mapping[str, Any]) -> int:
    return next(index for index, q in enumerate(group["params"]) if q is p)


def at_least_zero(group: Mapping[str, Any], *names: str) -> None:
    """ValueError for an option of these names that is negative or NaN, or a tensor of several elements."""
    for name in names:
        value = group[name]
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{name}: expected a number or a tensor of one element, got one of {tuple(value.shape)}")
        if not float(value) >= 0.0:
            raise ValueError(f"{name}: got {float(value)}, accepted are numbers >= 0")


def check_betas(group: Mapping[str, Any]) -> None:
    """ValueError unless `betas` are two numbers in [0, 1)."""
    betas = group["betas"]
    if len(betas) != 2 or not all(0.0 <= float(beta) < 1.0 for beta in betas):
        raise ValueError(f"betas: got {betas!r}, accepted are two numbers in [0, 1)")


def check_common(group: Mapping[str, Any], has_eco: bool) -> None:
    """TypeError or ValueError, naming the option, for common options (but `state`) that are not accepted."""
    at_least_zero(group, "lr")
    if group["nonfinite"] not in NONFINITE:
        raise ValueError(f"nonfinite: got {group['nonfinite']!r}, accepted are {', '.join(NONFINITE)}")
    clip_norm, seed, master = group["clip_norm"], group["seed"], group["master"]
    if clip_norm is not None and not float(clip_norm) > 0.0:
        raise ValueError(f"clip_norm: got {clip_norm}, accepted are None and numbers > 0")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed!r}, accepted are integers from 0 to 2^32 - 1")
    eco = isinstance(master, str) and master.startswith(ECO)
    if not (master in MASTERS or (eco and has_eco)):
        known = ", ".join((*MASTERS, "eco:SCHEME") if has_eco else MASTERS)
        raise ValueError(f"master: got {master!r}, accepted are {known}")
    if group["capturable"] and group["nonfinite"] == "raise":
        raise ValueError("capturable: nonfinite='raise' has to wait for the device; choose 'propagate' or 'skip'")
    if group["capturable"] and group["offload"]:
        raise ValueError("capturable: offload=True has the step on the host; choose one of the two")


def check_parameters(group: Mapping[str, Any]) -> None:
    """TypeError or ValueError, naming the parameter, for parameters that a group with these options cannot have."""
    for p in group["params"]:
        cut_axis(p, name_of(p, group))
        if p.dtype not in PARAMETER_DTYPES:
            accepted = ", ".join(str(dtype) for dtype in PARAMETER_DTYPES)
            raise TypeError(f"params: {name_of(p, group)} has dtype {p.dtype}; accepted are {accepted}")
        if group["master"] in ("sr", "residual") and p.dtype is not torch.bfloat16:
            raise ValueError(
                f"master: {group['master']!r} takes bfloat16 parameters, and {name_of(p, group)} has dtype {p.dtype}; "
                "give it a group with master='none'"
            )
        if group["compiled"] and not group["offload"] and p.device.type != "cpu":
            raise ValueError(
                f"compiled: {name_of(p, group)} is on {p.device}; compiled steps are for CPU parameters, those of a "
                "GPU have a kernel: leave it False"
            )
