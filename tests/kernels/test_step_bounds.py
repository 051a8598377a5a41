"""Bounds on the results of optimizer_step: as narrow as rounding errors, and a wrong code is outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels import _step_bounds
from narrowgauge.kernels.optimizer_step import OPTIMIZER_STEP

SAMPLES = {sample.name: sample.args for sample in OPTIMIZER_STEP.samples(np.random.default_rng(7), "cpu")}


def outside(args: tuple[Any, ...], results: list[list[Tensor]]) -> int:
    """How many values lie outside their bounds."""
    expected = [t for kind in OPTIMIZER_STEP.reference(*args) for t in kind]
    pairs = (_step_bounds.values(args, tensors) for tensors in ([t for kind in results for t in kind], expected))
    bounds = _step_bounds.tolerance(*args)
    return sum(int(((a - b).abs() > bound).sum()) for a, b, bound in zip(*pairs, bounds, strict=True))


@pytest.mark.parametrize("name", ["log8", "log4", "coat", "int8", "dynamic8", "bf16_sr"])
def test_bounds_let_nearly_all_codes_differ_by_nothing(name: str) -> None:
    args = SAMPLES[f"{name} later"]
    results = [t for kind in OPTIMIZER_STEP.reference(*args) for t in kind]
    for value, bound in zip(_step_bounds.values(args, results), _step_bounds.tolerance(*args), strict=True):
        assert float((bound > 2e-4 * value.abs()).float().mean()) < 0.05


@pytest.mark.parametrize(("name", "kind"), [("log8", 1), ("log8", 3), ("coat", 1), ("coat", 3), ("int8", 1)])
def test_a_neighbouring_code_is_outside_but_on_a_border(name: str, kind: int) -> None:
    args = SAMPLES[f"{name} later"]
    results = OPTIMIZER_STEP.reference(*args)
    assert outside(args, results) == 0
    codes = results[kind][0]
    moved = codes.to(torch.int32)
    # Towards zero, where the code is not the last: the smallest positive code stays what it is.
    moved = torch.where((moved & 0x7F) > 1, moved - 1, moved)
    results[kind][0] = moved.to(codes.dtype)
    changed = int((results[kind][0] != codes).sum())
    assert outside(args, results) > 0.9 * changed > 500


def test_another_draw_is_outside() -> None:
    args = SAMPLES["bf16_sr later"]
    rows = args[11].clone()
    rows[:, 10] += 1  # second_key
    moved = OPTIMIZER_STEP.reference(*args[:11], rows, *args[12:])
    assert outside(args, moved) > 300


def test_a_residual_may_not_be_a_step_away() -> None:
    args = SAMPLES["residual adamw fp32"]
    results = OPTIMIZER_STEP.reference(*args)
    assert outside(args, results) == 0
    results[5][0] = results[5][0] + torch.where(results[5][0] < 127, 1, -1).to(torch.int8)
    assert outside(args, results) > 0.9 * results[5][0].numel()


def test_a_wrong_sign_of_lion_is_outside_where_there_is_a_sign() -> None:
    args = SAMPLES["lion fp32"]
    results = OPTIMIZER_STEP.reference(*args)
    p, old = results[0][0], args[1][0]
    results[0][0] = old - (p - old)
    assert outside(args, results) > 0.99 * p.numel()
