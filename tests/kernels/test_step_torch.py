"""The step on a CPU: torch's bits, blocks that leave no trace, little memory.

What it computes is held to the definition by test_conformance.py and test_optimizer_step.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from narrowgauge.bench.temporaries import peak_bytes
from narrowgauge.kernels import _step_torch
from optimizer_steps import DECAY, EPS, FUSED, LR, assert_same, gaussian, names_of, new_state, row, run, step

COUNTS = (1, 300, 1280, 4096, 0, 7001)


def parameters(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [gaussian(count, seed=count).to(dtype) for count in COUNTS]


def gradients(time: int) -> list[Tensor]:
    return [1e-2 * gaussian(count, seed=100 * time + count) for count in COUNTS]


@pytest.mark.parametrize("rule", ["adamw", "adam"])
@pytest.mark.parametrize("maximize", [False, True])
def test_float32_states_give_the_bits_of_torchs_fused_optimizer(rule: str, maximize: bool) -> None:
    ours, theirs = parameters(), [torch.nn.Parameter(p) for p in parameters()]
    kind = torch.optim.AdamW if rule == "adamw" else torch.optim.Adam
    optimizer = kind(theirs, LR, (0.9, 0.95), EPS, DECAY, fused=True, maximize=maximize)
    times = range(1, 4)
    for time in times:
        for p, g in zip(theirs, gradients(time), strict=True):
            p.grad = g
        optimizer.step()
    run(ours, [gradients(time) for time in times], rule, maximize=maximize)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("master", ["none", "residual"])
def test_blocks_leave_no_trace(name: str, master: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.float32 if master == "none" else torch.bfloat16
    whole, cut = parameters(dtype), parameters(dtype)
    steps = [gradients(time) for time in (1, 2)]
    expected = run(whole, steps, name=name, master=master)
    monkeypatch.setattr(_step_torch, "CHUNK_ELEMENTS", 1024)
    monkeypatch.setattr(_step_torch, "LEAST_ELEMENTS", 512)
    state = run(cut, steps, name=name, master=master)
    assert_same(state, expected)
    for p, q in zip(cut, whole, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", ["log8", "log4", "coat", "dynamic8", "bf16_sr"])
def test_working_memory_is_that_of_a_block(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_step_torch, "CHUNK_ELEMENTS", 4096)
    p, g = [gaussian(100_000)], [gaussian(100_000, seed=1)]
    state = new_state(p, "adamw", names_of("adamw", name))
    step(p, g, state, [row(1)], name=name)  # tables are made
    peak = peak_bytes(lambda: step(p, g, state, [row(2)], name=name))
    assert 8 * 4 * 4096 <= peak < 12 * 4 * 4096
