"""The optimizer step: against torch.optim, across implementations, tensors and shards.

Every codec, rule, dtype and shape against the float64 reference is in test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from narrowgauge.kernels.codecs import CODECS
from narrowgauge.kernels.optimizer_step import OPTIMIZER_STEP
from narrowgauge.kernels.step_rules import RULES
from optimizer_steps import (
    DECAY,
    EPS,
    FUSED,
    LR,
    State,
    assert_same,
    differing,
    gaussian,
    names_of,
    new_state,
    row,
    run,
    step,
    tensors,
)


def torch_optimizer(rule: str, p: Tensor) -> tuple[torch.optim.Optimizer, Callable[[int], list[float]]]:
    """torch's optimizer of a rule, and the row of a step that is the same."""
    if rule == "adamw":
        return torch.optim.AdamW([p], LR, (0.9, 0.95), EPS, DECAY), row
    if rule == "adam":
        return torch.optim.Adam([p], LR, (0.9, 0.95), EPS, DECAY), row
    if rule.startswith("sgd"):
        nesterov = rule == "sgd_nesterov"
        dampening = 0.0 if nesterov else 0.2
        optimizer = torch.optim.SGD([p], LR, 0.9, dampening, DECAY, nesterov)
        return optimizer, lambda time: row(time, b=0.0 if time == 1 else dampening)
    if rule == "adagrad":
        optimizer = torch.optim.Adagrad([p], LR, lr_decay=0.1, weight_decay=DECAY, eps=EPS)
        return optimizer, lambda time: row(time, lr=LR / (1 + (time - 1) * 0.1))
    momentum = 0.9 if rule == "rmsprop_momentum" else 0.0
    return torch.optim.RMSprop([p], LR, 0.95, EPS, DECAY, momentum), row


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ("adamw_after", "lion")])
@pytest.mark.parametrize("implementation", ["reference", "torch", "triton"])
def test_rules_are_those_of_torch(rule: str, implementation: str) -> None:
    double, p = torch.nn.Parameter(gaussian(300).double()), [gaussian(300)]
    optimizer, row_of = torch_optimizer(rule, double)
    state = new_state(p, rule, names_of(rule, "fp32"))
    for time in range(1, 5):
        g = 1e-2 * gaussian(300, seed=time)
        double.grad = g.double()
        optimizer.step()
        if implementation == "reference":
            table = torch.tensor([row_of(time)], dtype=torch.float64)
            names = names_of(rule, "fp32")
            kinds = OPTIMIZER_STEP.reference(rule, p, [g], *state.values(), *names, "none", table, False, False)
            p, state = kinds[0], dict(zip(state, kinds[1:], strict=True))
        else:
            step(p, [g], state, [row_of(time)], rule, function=OPTIMIZER_STEP.implementation(implementation))
    torch.testing.assert_close(p[0].double(), double.detach(), rtol=1e-6, atol=1e-6)


def test_lion_is_its_published_update() -> None:
    p, m, expected = [gaussian(300)], torch.zeros(300, dtype=torch.float64), gaussian(300).double()
    state = new_state(p, "lion", ("fp32", ""))
    for time in range(1, 4):
        g = gaussian(300, seed=time)
        expected = expected * (1 - LR * DECAY) - LR * torch.sign(0.9 * m + 0.1 * g.double())
        m = 0.99 * m + 0.01 * g.double()
        step(p, [g], state, [row(time, b=0.99)], "lion")
    torch.testing.assert_close(p[0].double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state["m"][0].double(), m, rtol=1e-5, atol=1e-7)


def test_adamw_after_decays_what_the_step_has_made() -> None:
    g = [gaussian(300, seed=1)]
    plain, after = [gaussian(300)], [gaussian(300)]
    run(plain, [g], "adamw", options={"weight_decay": 0.0})
    run(after, [g], "adamw_after")
    torch.testing.assert_close(after[0], plain[0] * (1 - LR * DECAY), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["coat", "int8", "log8", "log4", "flash", "bf16_sr"])
def test_triton_and_torch_agree_on_all_but_a_few_codes_after_three_steps(name: str) -> None:
    gradients = [[1e-3 * gaussian(900, seed=seed)] for seed in range(1, 4)]
    p, q = [gaussian(900)], [gaussian(900)]
    ours = run(p, gradients, name=name, function=OPTIMIZER_STEP.implementation("torch"))
    theirs = run(q, gradients, name=name, function=OPTIMIZER_STEP.implementation("triton"))
    different, count = differing(ours, theirs)
    if CODECS[name][0].is_coded:
        assert different <= count // 100
    torch.testing.assert_close(p[0], q[0], rtol=1e-5, atol=2e-4 * LR)


@pytest.mark.parametrize(("name", "implementation"), [
    ("coat", "torch"), ("log8", "torch"), ("log4", "torch"), ("bf16_sr", "torch"), ("log4", "triton"),
])  # fmt: skip
def test_many_tensors_step_like_each_alone(name: str, implementation: str) -> None:
    function = OPTIMIZER_STEP.implementation(implementation)
    shapes = [(), (0, 5), (37,), (5, 129), (1, 1025)]
    p = [gaussian(*shape, seed=i) for i, shape in enumerate(shapes)]
    alone = [t.clone() for t in p]
    gradients = [[1e-3 * gaussian(*shape, seed=10 * time + i) for i, shape in enumerate(shapes)] for time in (1, 2)]
    state = run(p, gradients, name=name, function=function)
    for index, t in enumerate(alone):
        one = new_state([t], "adamw", (name, name))
        for time, g in enumerate(gradients, 1):
            step([t], [g[index]], one, [row(time, stream=index)], name=name, function=function)
        # Vectorised and scalar logarithms differ in their last bits, and which are which depends on the places.
        torch.testing.assert_close(t, p[index], rtol=1e-6, atol=1e-3 * LR)
        together = {kind: [ts[index]] if ts else [] for kind, ts in state.items()}
        assert differing(one, together)[0] <= t.numel() // 100


@pytest.mark.parametrize("name", ["log8", "log4", "bf16_sr", "int8"])
@pytest.mark.parametrize("master", ["none", "sr", "residual"])
def test_shards_step_like_the_whole_parameter(name: str, master: str) -> None:
    def parameter() -> Tensor:
        return gaussian(4096) if master == "none" else gaussian(4096).bfloat16()

    gradients = [1e-2 * gaussian(4096, seed=seed) for seed in (1, 2, 3)]
    whole, parts = [parameter()], [parameter()[:1024].clone(), parameter()[1024:].clone()]
    state = run(whole, [[g] for g in gradients], name=name, master=master)
    shards = new_state(parts, "adamw", (name, name), master)
    for time, g in enumerate(gradients, 1):
        rows = [row(time), row(time, offset=1024.0)]
        step(parts, [g[:1024], g[1024:]], shards, rows, name=name, master=master)
    assert torch.equal(torch.cat(parts), whole[0])
    for kind, ts in state.items():
        if ts:
            assert torch.equal(torch.cat(shards[kind]), ts[0])


def test_keys_decide_the_draws_and_nothing_else_does() -> None:
    g = [1e-3 * gaussian(2000, seed=1)]
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + 7)
        p = [gaussian(2000).bfloat16()]
        state = new_state(p, "adamw", ("log8", "log8"), "residual")
        step(p, g, state, [row(1, stream=seed)], name="log8", master="residual")
        states.append(state)
    assert_same(states[0], states[1])
    for kind in ("v", "residual"):
        assert (states[0][kind][0] != states[2][kind][0]).float().mean() > 0.2


@pytest.mark.parametrize("name", ["coat", "dynamic8", "log8", "fp32"])
def test_strided_parameters_step_like_contiguous_ones(name: str) -> None:
    storage = gaussian(40, 60)
    before = storage.clone()
    view = storage[1::2, 5:50:3]
    plain = [view.clone()]
    g = 1e-3 * gaussian(20, 15, seed=1)
    expected = run(plain, [[g]], name=name)
    actual = run([view], [[g.t().contiguous().t()]], name=name)
    assert torch.equal(view, plain[0])
    assert_same(actual, expected)
    untouched = torch.ones_like(storage, dtype=torch.bool)
    untouched[1::2, 5:50:3] = False
    assert torch.equal(storage[untouched], before[untouched])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_parameters_are_stepped_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    narrow, g = [gaussian(500).to(dtype)], (1e-2 * gaussian(500, seed=1)).to(dtype)
    wide = [narrow[0].float()]
    expected = run(wide, [[g.float()]], name="coat")
    assert_same(run(narrow, [[g]], name="coat"), expected)
    assert torch.equal(narrow[0], wide[0].to(dtype))


@pytest.mark.parametrize("rule", ["adamw", "lion", "sgd"])
def test_tiny_steps_of_bfloat16_weights_add_up(rule: str) -> None:
    # Each is 1/200 of an ulp of the weight: to nearest none of them would have any effect.
    for master, spread in (("sr", 6e-3), ("residual", 2e-4)):
        p = [torch.ones(8192, dtype=torch.bfloat16)]
        g = [torch.ones(8192)]
        numbers = {"lr": 4e-5, "weight_decay": 0.0}
        state = run(
            p, [g] * 100, rule, master=master, options=numbers | ({"a": 0.0, "b": 0.0} if rule == "sgd" else {})
        )
        w = p[0].double()
        if master == "residual":
            w = w + state["residual"][0].double() / 127 * 2.0**-9  # half an ulp below 1
        else:
            assert float(w.std()) > 1e-3
        assert float(w.mean()) == pytest.approx(1 - 4e-3, abs=3 * spread / 8192**0.5 + 2e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", FUSED)
def test_non_finite_gradient_reaches_what_torch_lets_it_reach(name: str, poison: float) -> None:
    g = 1e-3 * gaussian(1024, seed=1)
    clean_p, p = [gaussian(1024)], [gaussian(1024)]
    clean = run(clean_p, [[g]], name=name)
    g[300] = poison
    state = run(p, [[g]], name=name)
    assert torch.isnan(p[0][300])
    others = torch.arange(1024) != 300
    assert torch.equal(p[0][others], clean_p[0][others])
    for kind, codec in zip("mv", CODECS[name], strict=True):
        codes, clean_codes = state[kind][0], clean[kind][0]
        if not codec.columns:
            assert not torch.isfinite(codes[300])
            assert torch.equal(codes[others], clean_codes[others])
            continue
        scale, clean_scale = state[f"{kind}_scale"][0], clean[f"{kind}_scale"][0]
        rows = torch.arange(len(scale)) != 300 * len(scale) // 1024
        assert torch.equal(scale[rows], clean_scale[rows])
        assert torch.equal(codes.view(len(scale), -1)[rows], clean_codes.view(len(scale), -1)[rows])
        assert not torch.equal(scale[~rows], clean_scale[~rows])


@pytest.mark.parametrize("name", ["log8", "int8", "fp32"])
@pytest.mark.parametrize("rule", ["adamw", "lion", "rmsprop"])
def test_skipped_elements_count_as_zero_gradient(name: str, rule: str) -> None:
    g = 1e-3 * gaussian(1024, seed=1)
    g[300], g[301], g[900] = float("nan"), float("inf"), -float("inf")
    p, q = [gaussian(1024)], [gaussian(1024)]
    skipped = run(p, [[g]], rule, name, skip=True)
    assert_same(skipped, run(q, [[torch.where(torch.isfinite(g), g, 0.0)]], rule, name))
    assert torch.equal(p[0], q[0])
    assert torch.isfinite(p[0]).all()


@pytest.mark.parametrize("rule", RULES)
def test_maximize_and_grad_scale_multiply_the_gradient(rule: str) -> None:
    g = 1e-2 * gaussian(500, seed=1)
    p, q = [gaussian(500)], [gaussian(500)]
    state = run(p, [[g], [g]], rule, "int8", options={"grad_scale": 0.25}, maximize=True)
    assert_same(state, run(q, [[-0.25 * g], [-0.25 * g]], rule, "int8"))
    assert torch.equal(p[0], q[0])


@pytest.mark.parametrize("name", FUSED)
def test_groups_of_zero_gradients_leave_zero_states_and_only_decay_p(name: str) -> None:
    p = [gaussian(300)]
    state = run(p, [[torch.zeros(300)]] * 2, name=name)
    torch.testing.assert_close(p[0], gaussian(300) * (1 - LR * DECAY) ** 2, rtol=1e-6, atol=1e-7)
    empty = new_state(p, "adamw", (name, name))
    for kind in "mv":
        assert torch.equal(state[kind][0], empty[kind][0])
        assert all(torch.isfinite(scale).all() for scale in state[f"{kind}_scale"])


def test_compiles_into_one_graph_with_its_mutations() -> None:
    rows = torch.tensor([row(1), row(1)], dtype=torch.float64)

    def stepped(p: list[Tensor], g: list[Tensor], state: State) -> Tensor:
        torch.ops.narrowgauge.optimizer_step(
            "adamw", p, g, *state.values(), "log8", "log8", "none", rows, False, False
        )  # fmt: skip
        return p[0] * 2

    g = [1e-3 * gaussian(256, seed=1), 1e-3 * gaussian(3, 5, seed=2)]
    eager, compiled = [gaussian(256), gaussian(3, 5)], [gaussian(256), gaussian(3, 5)]
    expected = stepped(eager, g, new_state(eager, "adamw", ("log8", "log8")))
    state = new_state(compiled, "adamw", ("log8", "log8"))
    actual = torch.compile(stepped, fullgraph=True, backend="aot_eager")(compiled, g, state)
    assert torch.equal(actual, expected)
    assert torch.equal(compiled[1], eager[1])
    assert state["m"][0].any()


def test_no_tensors_are_no_mistake() -> None:
    assert not tensors(run([], [[]], name="log8"))
