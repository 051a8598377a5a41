"""Scales with a memory, step by step: formulas, formats.Autoflex and DynamicFixedPoint, calls that are repeated."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from narrowgauge.formats import Autoflex, DynamicFixedPoint, get, quantize_reference
from narrowgauge.nn.scaling import ScaleState, Scaling, parse_scaling

KINDS = (
    ("delayed=4", "e4m3fn"), ("delayed=4+recent+margin=1", "e5m2"), ("hindsight=0.9", "int8"), ("autoflex", "int16"),
    ("overflow=0.01", "int10"),
)  # fmt: skip


def tensors(count: int, seed: int = 0, growth: float = 0.3) -> list[Tensor]:
    """Normal tensors whose size wanders by so many binades a step."""
    rng = np.random.default_rng(seed)
    sizes = np.exp2(-8 + growth * rng.standard_normal(count).cumsum())
    return [torch.from_numpy(rng.standard_normal((7, 30)).astype(np.float32) * np.float32(size)) for size in sizes]


def amax(x: Tensor) -> np.float32:
    return np.float32(x.abs().max())


def test_delayed_scales_are_those_of_the_largest_amax_of_the_window() -> None:
    state, xs = ScaleState("delayed=3", "e4m3fn"), tensors(12)
    for step, x in enumerate(xs):
        past = xs[max(0, step - 3) : step] or [x]
        assert state(x).item() == max(amax(p) for p in past) / np.float32(448)
    assert state.steps == 12


def test_delayed_scales_of_the_last_amax_alone_and_a_margin() -> None:
    state, xs = ScaleState("delayed=16+recent+margin=2", "e5m2"), tensors(6)
    for step, x in enumerate(xs):
        assert state(x).item() == amax(xs[max(0, step - 1)]) / np.float32(57344) * 4


def test_hindsight_scales_are_those_of_a_moving_average() -> None:
    state, xs = ScaleState("hindsight=0.9", "int8"), tensors(12)
    average = float(amax(xs[0]))
    for step, x in enumerate(xs):
        assert state(x).item() == pytest.approx(average / 127, rel=1e-6)
        average = 0.9 * average + 0.1 * float(amax(x)) if step else average


@pytest.mark.parametrize("growth", [0.05, 0.5, 4.0])
def test_autoflex_is_the_definition_step_by_step(growth: float) -> None:
    state, rule = ScaleState("autoflex", "int16"), None
    for x in [*tensors(60, 1, growth), torch.zeros(3), *tensors(5, 2)]:
        rule = Autoflex(0).initialized(x.numpy()) if rule is None else rule
        assert state(x).item() == 2.0**rule.exponent
        rule = rule.update(rule.quantize(x.numpy()))
        assert state.exponent == rule.exponent
        assert state.upcoming() == 2.0**rule.exponent
    assert rule is not None
    np.testing.assert_array_equal(state.history[-len(rule.history) :].numpy(), rule.history)


@given(size=st.floats(2.0**-60, 2.0**40))
def test_the_first_exponent_of_autoflex_is_the_definition(size: float) -> None:
    x = np.asarray([size], np.float32)
    assert (
        ScaleState("autoflex", "int16").scale(torch.from_numpy(x)).item() == 2.0 ** Autoflex(0).initialized(x).exponent
    )


@pytest.mark.parametrize("bits", [2, 3, 4, 10, 16])
@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.02])
def test_overflow_counting_is_the_definition_step_by_step(bits: int, rate: float) -> None:
    state, rule = ScaleState(f"overflow={rate}", f"int{bits}"), None
    for x in [*tensors(40, 3, 0.7), torch.zeros(5), torch.empty(0, 3), *tensors(10, 4).copy()]:
        if rule is None:
            first = quantize_reference(x.numpy(), f"int{bits}:pow2").scale.item()
            rule = DynamicFixedPoint(bits, round(np.log2(first)), rate)
        assert state(x).item() == 2.0**rule.exponent
        rule = rule.update(x.numpy())
        assert state.exponent == rule.exponent


@pytest.mark.parametrize(("text", "element"), KINDS)
def test_the_first_scale_comes_from_its_own_tensor(text: str, element: str) -> None:
    state, x = ScaleState(text, element), tensors(1)[0]
    assert state.upcoming() is None
    assert state.scale(x).item() > 0
    assert state.upcoming() is None
    assert state.steps == 0
    state.observe(x)
    assert state.upcoming() is not None
    assert state.steps == 1


@pytest.mark.parametrize(("text", "element"), KINDS)
def test_later_scales_come_from_the_past_alone(text: str, element: str) -> None:
    state = ScaleState(text, element)
    for x in tensors(5):
        state(x)
    upcoming = state.upcoming()
    assert upcoming is not None
    assert state.scale(torch.full((3,), 1e6)) == upcoming
    assert state(torch.zeros(0)) == upcoming


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
@pytest.mark.parametrize(("text", "element"), KINDS)
def test_what_says_nothing_leaves_the_scale_as_it_was(text: str, element: str, bad: float) -> None:
    if bad == 0.0 and element in ("int16", "int10"):
        return  # a tensor of zeros has codes, which count
    state, xs = ScaleState(text, element), tensors(2, growth=0.0)
    first = state(torch.full((4,), bad)).item()
    assert first == 1.0 if bad == 0.0 else np.isnan(first)
    assert state.upcoming() is None
    assert state(xs[0]) == ScaleState(text, element)(xs[0])
    before = state.upcoming()
    assert state(torch.tensor([1.0, bad]) * bad) == before
    assert state.upcoming() == before
    assert torch.isfinite(torch.cat([buffer.view(-1).double() for buffer in state.buffers()])).all()


def test_a_window_of_zeros_keeps_the_scale() -> None:
    state = ScaleState("delayed=2", "e4m3fn")
    state(torch.full((3,), 4.48))
    for _ in range(5):
        assert state(torch.zeros(3)).item() == pytest.approx(0.01)


@pytest.mark.parametrize(("text", "element"), KINDS)
def test_a_call_can_be_repeated(text: str, element: str) -> None:
    state, xs = ScaleState(text, element), tensors(6)
    for x in xs:
        scale = state(x)
        before = copy.deepcopy(state.state_dict())
        assert state(x, again=True) == scale
        assert state.scale(x, again=True) == scale
        state.observe(x, again=True)
        assert all(torch.equal(value, before[name]) for name, value in state.state_dict().items())


def in_backward() -> bool:
    """Whether a forward that runs now is computed again by activation checkpointing."""
    return torch._C._current_graph_task_id() != -1


class Scaled(nn.Module):
    """Divides by its scale, with a gradient that shows which one it was."""

    def __init__(self) -> None:
        super().__init__()
        self.state = ScaleState("delayed=4", "e4m3fn")
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        scale = self.state(x, again=in_backward())
        self.seen.append(scale.item())
        return (x / scale).square().sum()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_computes_the_forward_again_with_the_same_scale(use_reentrant: bool) -> None:
    plain, again = Scaled(), Scaled()
    for x in tensors(4):
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        plain(a).backward()
        checkpoint(again, b, use_reentrant=use_reentrant).backward()
        assert torch.equal(a.grad, b.grad)
    assert plain.state.steps == again.state.steps == 4
    assert again.seen == [scale for scale in plain.seen for _ in range(2)]


@pytest.mark.parametrize(("text", "element"), KINDS)
def test_a_restored_state_goes_on_alike(text: str, element: str) -> None:
    state, xs = ScaleState(text, element), tensors(8)
    for x in xs[:4]:
        state(x)
    other = ScaleState(text, element)
    other.load_state_dict(state.state_dict())
    assert other.upcoming() == state.upcoming()
    for x in xs[4:]:
        assert other(x) == state(x)
    other.load_state_dict(ScaleState(text, element).state_dict())
    assert other.upcoming() is None


@pytest.mark.parametrize(("text", "element"), KINDS)
def test_steps_can_be_compiled_in_one_piece(text: str, element: str) -> None:
    eager, compiled = ScaleState(text, element), ScaleState(text, element)
    step = torch.compile(lambda x: x / compiled(x), backend="aot_eager", fullgraph=True)
    for x in tensors(4):
        torch.testing.assert_close(step(x), x / eager(x), rtol=0, atol=0)
    assert compiled.upcoming() == eager.upcoming()
    assert all(torch.equal(a, b) for a, b in zip(compiled.buffers(), eager.buffers(), strict=True))


def test_a_scale_that_was_handed_out_does_not_change() -> None:
    state, xs = ScaleState("delayed=4", "e4m3fn"), tensors(3)
    scales = [state(x) for x in xs]
    upcoming = state.upcoming()
    assert upcoming is not None
    copies = [scale.item() for scale in (*scales, upcoming)]
    state(xs[0] * 100)
    assert [scale.item() for scale in (*scales, upcoming)] == copies


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("text", "element"), KINDS)
def test_every_floating_dtype_is_measured(text: str, element: str, dtype: torch.dtype) -> None:
    state, other = ScaleState(text, element), ScaleState(text, element)
    for x in tensors(3):
        narrow = x.to(dtype)
        scale = state(narrow)
        assert scale.dtype == torch.float32
        assert scale == other(narrow.float())
    state(torch.full((2,), 1e300, dtype=torch.float64))
    assert torch.isfinite(state.value)


@pytest.mark.parametrize(
    "text",
    ["delayed=1024", "delayed=16+recent", "delayed=1+recent+margin=-3", "hindsight=0.9", "autoflex", "overflow=0.0001"],
)
def test_texts_read_back(text: str) -> None:
    scaling = parse_scaling(text)
    assert str(scaling) == text
    assert parse_scaling(scaling) is scaling


def test_texts_say_kind_and_value() -> None:
    assert parse_scaling("delayed=16+margin=1") == Scaling("delayed", 16, margin=1)
    assert parse_scaling("overflow=1e-4") == Scaling("overflow", 1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("late=3", "scaling: unknown kind 'late'; accepted: delayed, hindsight, autoflex, overflow"),
        ("delayed", "delayed: got None, accepted: how many amax are kept"),
        ("delayed=0", "delayed: got 0, accepted"),
        ("delayed=2.5", "scaling: '2.5' in 'delayed=2.5' is no whole number"),
        ("hindsight=1", "hindsight: got 1.0, accepted: a momentum from 0 to below 1"),
        ("overflow=x", "scaling: 'x' in 'overflow=x' is no number"),
        ("overflow=-1", "overflow: got -1.0, accepted: a rate"),
        ("autoflex=3", "autoflex: takes no value, got 3"),
        ("hindsight=0.9+recent", "scaling: recent and margin go with delayed, got hindsight"),
        ("delayed=3+max", "scaling: unknown option 'max' in 'delayed=3\\+max'; accepted: recent, margin=m"),
        ("delayed=3+margin=100", "margin: got 100, accepted"),
        ("=3", "scaling: '=3' is not 'kind=value"),
    ],
)
def test_texts_without_a_meaning_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_scaling(text)


@pytest.mark.parametrize(
    ("text", "element", "message"),
    [
        ("autoflex", "int8", "element: autoflex is defined for int16, got int8"),
        ("overflow=0.1", "e4m3fn", "element: overflow=… counts codes of integers of 2 to 16 bits"),
        ("overflow=0.1", "int8_full", "element: overflow=… counts codes"),
        ("delayed=4", "mxfp8", "element: mxfp8_e4m3 has block scales of its own"),
    ],
)
def test_formats_that_a_scaling_has_no_use_for_are_refused(text: str, element: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleState(text, element)
    with pytest.raises(TypeError, match="scaling: expected a string or a Scaling, got int"):
        ScaleState(3, get("int8"))  # type: ignore[arg-type]


def test_half_precision_and_evaluation_leave_the_scale_as_it_is() -> None:
    state = ScaleState("delayed=4", "e4m3fn")
    state(torch.full((3,), 0.3))
    before = {name: buffer.clone() for name, buffer in state.named_buffers()}
    state.to(torch.bfloat16)
    state.half()
    assert torch.equal(state.peek(torch.ones(3)), before["value"])
    for name, buffer in state.named_buffers():
        assert buffer.dtype == before[name].dtype
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize(
    ("text", "element"), [("delayed=4", "e4m3fn"), ("hindsight=0.9", "int8"), ("autoflex", "int16")]
)
def test_allocated_anew_it_forgets_everything(text: str, element: str) -> None:
    used, new = ScaleState(text, element), ScaleState(text, element)
    used(torch.full((4,), 7.0))
    for buffer in used.buffers():
        buffer.fill_(77)
    used.reset_parameters()
    x = torch.linspace(-3, 2, 9)
    for _ in range(2):
        assert torch.equal(used(x), new(x))
