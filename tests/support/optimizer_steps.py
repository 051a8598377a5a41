"""Calls of the op optimizer_step as an optimizer would make them, and what tells their results apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels.codecs import CODECS
from narrowgauge.kernels.moments import empty_moment
from narrowgauge.kernels.optimizer_step import OPTIMIZER_STEP, rule_codecs
from narrowgauge.kernels.random_words import FIRST, SECOND, STREAMS, WEIGHT, key_of
from narrowgauge.kernels.step_rules import ROW_LENGTH, RULES, Row

FUSED = [name for name, (_, second) in CODECS.items() if second.fused]
LR, DECAY, EPS = 1e-2, 0.1, 1e-8

State = dict[str, list[Tensor]]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def row(step: int, a: float = 0.9, b: float = 0.95, stream: int = 0, **options: float) -> list[float]:
    """The row of a parameter whose streams begin at `stream`, under seed 11."""

    def key(purpose: int, at: int) -> int:
        return key_of(11, STREAMS * stream + purpose, at)

    defaults = {"first_key": key(FIRST, step), "second_key": key(SECOND, step), "weight_key": key(WEIGHT, step)}
    defaults |= {"read_first_key": key(FIRST, step - 1), "read_second_key": key(SECOND, step - 1)}
    numbers: dict[str, Any] = {"lr": LR, "weight_decay": DECAY, "eps": EPS} | defaults | options
    return list(Row(step, a=a, b=b, c1=1 - a**step, c2=1 - b**step, **numbers))


def new_state(p: list[Tensor], rule: str, names: tuple[str, str], master: str = "none") -> State:
    state: State = {"m": [], "m_scale": [], "v": [], "v_scale": [], "residual": []}
    for name, codec in zip("mv", rule_codecs(rule, *names), strict=True):
        for t in p if codec is not None else ():
            assert codec is not None
            codes, scale = empty_moment(codec, t)
            state[name].append(codes)
            state[f"{name}_scale"] += [] if scale is None else [scale]
    if master == "residual":
        state["residual"] = [torch.zeros_like(t, dtype=torch.int8, memory_format=torch.contiguous_format) for t in p]
    return state


def names_of(rule: str, name: str) -> tuple[str, str]:
    return name if RULES[rule].first else "", name if RULES[rule].second else ""


def step(
    p: list[Tensor], g: list[Tensor], state: State, rows: list[list[float]], rule: str = "adamw", name: str = "fp32",
    master: str = "none", maximize: bool = False, skip: bool = False, function: Callable[..., Any] = OPTIMIZER_STEP,
) -> None:  # fmt: skip
    table = torch.tensor(rows, dtype=torch.float64).view(-1, ROW_LENGTH)
    with np.errstate(all="ignore"):  # the interpreter computes in numpy
        function(rule, p, g, *state.values(), *names_of(rule, name), master, table, maximize, skip)


def run(
    p: list[Tensor], gradients: list[list[Tensor]], rule: str = "adamw", name: str = "fp32", master: str = "none",
    options: dict[str, float] | None = None, **flags: Any,
) -> State:  # fmt: skip
    """The state after one step for each of `gradients`; p is stepped."""
    state = new_state(p, rule, names_of(rule, name), master)
    for time, g in enumerate(gradients, 1):
        rows = [row(time, stream=stream, **(options or {})) for stream in range(len(p))]
        step(p, g, state, rows, rule, name, master, **flags)
    return state


def tensors(state: State) -> list[Tensor]:
    return [t for kind in state.values() for t in kind]


def assert_same(a: State, b: State) -> None:
    for ours, theirs in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0, equal_nan=True)


def differing(a: State, b: State) -> tuple[int, int]:
    """How many codes differ, and of how many."""
    pairs = [pair for name in ("m", "v") for pair in zip(a[name], b[name], strict=True)]
    return sum(int((x != y).sum()) for x, y in pairs), sum(x.numel() for x, _ in pairs)
