"""The fused step in Triton: its draws, its launches over many tensors, and that its roundings are unbiased.

Every codec, rule, dtype and shape against the float64 reference is in test_conformance.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels import _step_triton
from narrowgauge.kernels._masters_reference import join_weight
from narrowgauge.kernels._moments_reference import decode_reference
from narrowgauge.kernels._step_triton import compile_cases
from narrowgauge.kernels._triton import HAS_TRITON, jit, tl
from narrowgauge.kernels.codecs import second_moment
from narrowgauge.kernels.optimizer_step import OPTIMIZER_STEP
from narrowgauge.kernels.random_words import TABLE_ELEMENTS, halves, random_draws, random_halves, uniform
from narrowgauge.kernels.step_rules import MASTERS, RULES, Row
from optimizer_steps import FUSED, State, assert_same, gaussian, new_state, row, run, step, tensors

TRITON = OPTIMIZER_STEP.implementation("triton") if HAS_TRITON else None
pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")


@jit
def _draw_kernel(halves_ptr, draws_ptr, start, key, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    places = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    start = start.to(tl.int64)
    key = key.to(tl.uint32)
    tl.store(halves_ptr + places, random_halves(start, key, ROWS, WIDTH))
    tl.store(draws_ptr + places, random_draws(start, key, ROWS, WIDTH))


@pytest.mark.parametrize("start", [0, 2, TABLE_ELEMENTS - 64, TABLE_ELEMENTS, 5 * TABLE_ELEMENTS - 2, (1 << 40) + 6])
@pytest.mark.parametrize("key", [0, 0x9E3779B9, 0xFFFFFFFF])
def test_draws_are_those_of_the_definition(start: int, key: int, device: torch.device) -> None:
    words = torch.empty(4, 32, dtype=torch.int32, device=device)
    draws = torch.empty(4, 32, device=device)
    _draw_kernel[(1,)](words, draws, start, key, ROWS=4, WIDTH=32)
    assert np.array_equal(words.cpu().numpy().ravel(), halves(128, key, start))
    assert np.array_equal(draws.cpu().numpy().ravel(), uniform(128, key, start).astype(np.float32))


def stepped(p: list[Tensor], g: list[Tensor], name: str, master: str, streams: list[int]) -> State:
    """The state after two steps."""
    state = new_state(p, "adamw", (name, name), master)
    for time in (1, 2):
        rows = [row(time, stream=stream) for stream in streams]
        step(p, g, state, rows, name=name, master=master, function=TRITON)
    return state


CASES = [("log8", "none"), ("log4", "residual")]


@pytest.mark.parametrize(("name", "master"), CASES)
def test_tensors_step_together_as_each_alone(name: str, master: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several programs a tensor, tails, and tensors that allow wide accesses among tensors that do not.
    monkeypatch.setattr(_step_triton, "SPAN", 1024)
    dtype = torch.float32 if master == "none" else torch.bfloat16
    sizes = (1040, 37, 0)
    p = [gaussian(n, seed=n).to(dtype) for n in sizes]
    g = [1e-2 * gaussian(n, seed=n + 1) for n in sizes]
    alone = [t.clone() for t in p]
    together = stepped(p, g, name, master, list(range(len(p))))
    each = [stepped([t], [gradient], name, master, [i]) for i, (t, gradient) in enumerate(zip(alone, g, strict=True))]
    assert_same(together, {kind: [t for state in each for t in state[kind]] for kind in together})
    assert all(torch.equal(a, b) for a, b in zip(p, alone, strict=True))


def set_sizes(monkeypatch: pytest.MonkeyPatch, span: int, block: int) -> None:
    """Elements of a program, and of those that it holds at a time; the interpreter is faster with more of these."""
    monkeypatch.setattr(_step_triton, "SPAN", span)
    monkeypatch.setattr(_step_triton, "BLOCK", block)


@pytest.mark.parametrize(
    ("name", "master", "span", "block"), [("log4", "residual", 2048, 512), ("log8", "none", 1024, 1024)]
)
def test_results_do_not_depend_on_the_elements_of_a_program(
    name: str, master: str, span: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.float32 if master == "none" else torch.bfloat16
    g = [1e-2 * gaussian(2100, seed=1)]
    p, other = [gaussian(2100).to(dtype)], [gaussian(2100).to(dtype)]
    set_sizes(monkeypatch, 4096, 4096)
    state = stepped(p, g, name, master, [0])
    set_sizes(monkeypatch, span, block)
    assert_same(state, stepped(other, g, name, master, [0]))
    assert torch.equal(p[0], other[0])


@pytest.mark.parametrize("name", ["log8", "log4"])
def test_unaligned_tensors_step_like_aligned_ones(name: str) -> None:
    storage, g = gaussian(1041), 1e-2 * gaussian(1041, seed=1)
    aligned, unaligned = [storage[1:].clone()], [storage.clone()[1:]]
    state = stepped(aligned, [g[1:].clone()], name, "none", [0])
    assert_same(state, stepped(unaligned, [g[1:]], name, "none", [0]))
    assert torch.equal(aligned[0], unaligned[0])


class _Recorder:
    """Stands in for the kernel."""

    def __init__(self) -> None:
        self.launches: list[tuple[int, Any]] = []

    def __getitem__(self, grid: tuple[int]) -> Any:
        return lambda *args, **constants: self.launches.append((grid[0], constants["P"]))


def test_all_tensors_of_a_dtype_are_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = _Recorder()
    monkeypatch.setattr(_step_triton, "step_kernel", kernel)
    p = [gaussian(n) for n in (16, 4096, 4112, 1024)] + [gaussian(64).bfloat16()]
    run(p, [[torch.zeros_like(t) for t in p]], name="log8", function=TRITON)
    assert kernel.launches == [(5, tl.float32), (1, tl.bfloat16)]


REPEATS = 512


def read_back(name: str, v: Tensor) -> Tensor:
    """v as the codec reads it back after a step that makes it g² = v."""
    p, g = [torch.zeros_like(v)], [v.sqrt()]
    state = new_state(p, "rmsprop", ("", name))
    step(p, g, state, [row(1, b=0.0)], "rmsprop", name, function=TRITON)
    codes, scales = state["v"][0], state["v_scale"]
    scale = scales[0].numpy() if scales else np.zeros((0, 0))
    stored = codes.float().numpy() if codes.is_floating_point() else codes.numpy()
    key = int(Row(*row(1)).second_key)
    return torch.from_numpy(decode_reference(stored, scale, second_moment(name), tuple(v.shape), key))


@pytest.mark.parametrize(("name", "bound"), [("log8", 1e-4), ("log4", 1e-3), ("bf16_sr", 1e-4)])
def test_stored_second_moments_are_right_on_average(name: str, bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 1 << 15, 1 << 15)
    group = 1e-6 * torch.exp(gaussian(128))
    v = group.sqrt().square().repeat(REPEATS)
    ratio = (read_back(name, v).double() / v.double()).view(REPEATS, 128)
    assert ratio.std() > 1e-3
    assert abs(float(ratio.mean()) - 1) < bound
    # And element by element: the largest of so many errors is about three standard errors.
    assert (ratio.mean(0) - 1).abs().max() < 5 * ratio.std(0).max() / REPEATS**0.5


@pytest.mark.parametrize("master", ["sr", "residual"])
def test_weights_are_right_on_average(master: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, 1 << 15, 1 << 15)
    p = [torch.full((1 << 15,), 1.0, dtype=torch.bfloat16)]
    state = new_state(p, "sgd", ("fp32", ""), master)
    # A twentieth of the distance to the neighbour below, 2^-8, and of one part of the residual.
    size = 2.0**-8 / 20 if master == "sr" else 2.0**-9 / 127 / 20
    step(p, [torch.ones(1 << 15)], state, [row(1, b=0.0, lr=size, weight_decay=0.0)], "sgd", "fp32", master,
         function=TRITON)  # fmt: skip
    if master == "sr":
        w = p[0].double()
    else:
        w = torch.from_numpy(join_weight(p[0].double().numpy(), state["residual"][0].numpy()))
    assert len(w.unique()) == 2
    assert abs(float((1 - w).mean()) / size - 1) < 0.1  # 4.1 standard errors


def test_cases_cover_codecs_rules_masters_and_flags() -> None:
    cases = list(compile_cases())
    for name in FUSED:
        assert any(case.name == f"optimizer_step adamw {name}" for case in cases)
    assert {case.constants["RULE"] for case in cases} == set(RULES)
    assert {case.constants["MASTER"] for case in cases} == set(MASTERS)
    assert {case.constants["SKIP"] for case in cases} == {False, True}
    assert {case.constants["ALIGNED"] for case in cases} == {False, True}
    for case in cases:
        assert set(case.signature) | set(case.constants) == set(_step_triton.step_kernel.arg_names), case.name
        assert not set(case.signature) & set(case.constants), case.name


@pytest.mark.gpu
def test_a_captured_step_repeats_with_the_rows_of_the_moment(device: torch.device) -> None:
    def fresh() -> tuple[list[Tensor], list[Tensor], State]:
        p = [gaussian(n, seed=n).to(device) for n in (4096, 37)]
        g = [1e-2 * gaussian(n, seed=n + 1).to(device) for n in (4096, 37)]
        return p, g, new_state(p, "adamw", ("log8", "log8"))

    def call(p: list[Tensor], g: list[Tensor], state: State, rows: Tensor) -> None:
        assert TRITON is not None
        TRITON("adamw", p, g, *state.values(), "log8", "log8", "none", rows, False, False)

    def rows_of(time: int) -> Tensor:
        return torch.tensor([row(time, stream=stream) for stream in (0, 1)], dtype=torch.float64, device=device)

    eager, captured = fresh(), fresh()
    rows = rows_of(1)
    call(*captured, rows)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(*captured, rows)
    for time in (1, 2, 3):
        call(*eager, rows_of(time))
    for time in (2, 3):
        rows.copy_(rows_of(time))
        graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(eager[0], captured[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors(eager[2]), tensors(captured[2]), strict=True))
