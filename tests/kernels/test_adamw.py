"""The optimizer step: against torch.optim.AdamW, across implementations, and on inputs of every shape.

Every codec, dtype and shape against the float64 reference is in test_conformance.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels import _adamw_torch
from narrowgauge.kernels.adamw import ADAMW_STEP
from narrowgauge.kernels.moments import CODECS, empty_moment, first_moment, second_moment

SCALARS = (1e-3, 0.9, 0.95, 1e-8, 1e-2, False)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def zero_state(p: Tensor, name: str) -> list[Tensor | None]:
    return [*empty_moment(first_moment(name), p), *empty_moment(second_moment(name), p)]


def run(p: Tensor, gradients: list[Tensor], name: str, function: Any = ADAMW_STEP) -> list[Any]:
    """p and its state after one step for each gradient."""
    state = zero_state(p, name)
    for step, g in enumerate(gradients, 1):
        function(p, g, *state, name, name, step, *SCALARS)
    return [p, *state]


def differing_codes(a: list[Any], b: list[Any]) -> int:
    return sum(int((a[i] != b[i]).sum()) for i in (1, 3))


def test_reference_is_the_published_update_in_float64() -> None:
    p, g = gaussian(300), gaussian(300, seed=1)
    m, v = 1e-2 * gaussian(300, seed=2), 1e-4 * gaussian(300, seed=3).square()
    double = torch.nn.Parameter(p.double())
    optimizer = torch.optim.AdamW([double], *SCALARS[:1], SCALARS[1:3], *SCALARS[3:5])
    double.grad = g.double()
    state = {"step": torch.tensor(6.0), "exp_avg": m.double(), "exp_avg_sq": v.double()}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: state}})
    optimizer.step()
    stepped = ADAMW_STEP.reference(p, g, m, None, v, None, "fp32", "fp32", 7, *SCALARS)
    assert torch.equal(stepped[0], double.detach().float())
    assert torch.equal(stepped[1], optimizer.state[double]["exp_avg"].float())
    assert torch.equal(stepped[3], optimizer.state[double]["exp_avg_sq"].float())


@pytest.mark.parametrize("name", CODECS)
def test_triton_and_torch_agree_on_all_but_a_few_codes_after_three_steps(name: str) -> None:
    gradients = [1e-3 * gaussian(1500, seed=seed) for seed in range(1, 4)]
    ours = run(gaussian(1500), gradients, name, ADAMW_STEP.implementation("torch"))
    with np.errstate(all="ignore"):
        theirs = run(gaussian(1500), gradients, name, ADAMW_STEP.implementation("triton"))
    if CODECS[name][0].columns:
        assert differing_codes(ours, theirs) <= 30  # of 3000
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CODECS)
def test_result_does_not_depend_on_the_block_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The last block is ragged: two groups of 128, or one of 256, and one of 37.
    gradients = [1e-3 * gaussian(1317, seed=seed) for seed in range(1, 3)]
    whole = run(gaussian(1317), gradients, name)
    monkeypatch.setattr(_adamw_torch, "CHUNK_ELEMENTS", 512)
    for a, b in zip(whole, run(gaussian(1317), gradients, name), strict=True):
        assert a is b or torch.equal(a, b)


@pytest.mark.parametrize("name", ["coat", "dynamic8", "fp32"])
def test_strided_parameters_step_like_contiguous_ones(name: str) -> None:
    storage = gaussian(40, 60)
    before = storage.clone()
    view = storage[1::2, 5:50:3]
    g = 1e-3 * gaussian(20, 15, seed=1)
    expected = run(view.clone(), [g], name)
    actual = run(view, [g.t().contiguous().t()], name)
    for a, b in zip(actual, expected, strict=True):
        assert a is b or torch.equal(a, b)
    untouched = torch.ones_like(storage, dtype=torch.bool)
    untouched[1::2, 5:50:3] = False
    assert torch.equal(storage[untouched], before[untouched])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_parameters_are_stepped_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    p, g = gaussian(500).to(dtype), (1e-2 * gaussian(500, seed=1)).to(dtype)
    wide = run(p.float(), [g.float()], "coat")
    narrow = run(p.clone(), [g], "coat")
    assert torch.equal(narrow[0], wide[0].to(dtype))
    for a, b in zip(narrow[1:], wide[1:], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", CODECS)
def test_non_finite_gradient_reaches_what_torch_lets_it_reach(name: str, poison: float) -> None:
    g = 1e-3 * gaussian(1024, seed=1)
    clean = run(gaussian(1024), [g], name)
    g[300] = poison
    p, m, m_scale, v, v_scale = run(gaussian(1024), [g], name)
    assert torch.isnan(p[300])
    others = torch.arange(1024) != 300
    assert torch.equal(p[others], clean[0][others])
    for codes, scale, clean_codes, clean_scale in ((m, m_scale, *clean[1:3]), (v, v_scale, *clean[3:5])):
        if scale is None:
            assert not torch.isfinite(codes[300])
            assert torch.equal(codes[others], clean_codes[others])
            continue
        rows = torch.isnan(scale).any(dim=1)
        assert rows.nonzero().tolist() == [[300 * len(scale) // 1024]]
        assert torch.equal(scale[~rows], clean_scale[~rows])
        assert torch.equal(codes.view(len(scale), -1)[~rows], clean_codes.view(len(scale), -1)[~rows])


def test_groups_of_zero_gradients_leave_zero_states_and_only_decay_p() -> None:
    p = gaussian(256)
    stepped, m, m_scale, v, v_scale = run(p.clone(), [torch.zeros(256)] * 2, "coat")
    assert torch.equal(stepped, p * (1 - 1e-5) * (1 - 1e-5)) or (stepped - p * (1 - 1e-5) ** 2).abs().max() < 1e-6
    assert not m.any()
    assert not v.any()
    assert torch.isfinite(m_scale).all()
    assert torch.isfinite(v_scale).all()


def test_compiles_into_one_graph_with_its_mutations() -> None:
    def step(p: Tensor, g: Tensor, m: Tensor, ms: Tensor, v: Tensor, vs: Tensor) -> Tensor:
        torch.ops.narrowgauge.adamw_step(p, g, m, ms, v, vs, "coat", "coat", 1, *SCALARS)
        return p * 2

    g = 1e-3 * gaussian(256, seed=1)
    eager, compiled = gaussian(256), gaussian(256)
    expected = step(eager, g, *zero_state(eager, "coat"))
    state = zero_state(compiled, "coat")
    actual = torch.compile(step, fullgraph=True, backend="aot_eager")(compiled, g, *state)
    assert torch.equal(actual, expected)
    assert torch.equal(compiled, eager)
    assert state[0].any()


@pytest.mark.parametrize(("change", "error", "text"), [
    ({"p": torch.zeros(4, dtype=torch.float64)}, TypeError, "p: expected dtype float32, .*, got float64"),
    ({"g": torch.zeros(5)}, ValueError, r"g: expected the shape of p, \(4,\), got \(5,\)"),
    ({"m": torch.zeros(4)}, ValueError, "m: expected 4 contiguous torch.uint8"),
    ({"v_scale": None}, ValueError, "v_scale: expected contiguous torch.float32"),
    ({"m_codec": "coatt"}, ValueError, "unknown codec 'coatt'; nearest: coat"),
    ({"step": 0}, ValueError, "step: steps count from 1, got 0"),
])  # fmt: skip
def test_arguments_that_cannot_be_meant_are_named(change: dict[str, Any], error: type[Exception], text: str) -> None:
    m, m_scale, v, v_scale = zero_state(torch.zeros(4), "coat")
    arguments = {
        "p": torch.zeros(4), "g": torch.zeros(4), "m": m, "m_scale": m_scale, "v": v, "v_scale": v_scale,
        "m_codec": "coat", "v_codec": "coat", "step": 1,
    }  # fmt: skip
    with pytest.raises(error, match=text):
        ADAMW_STEP(*(arguments | change).values(), *SCALARS)
