"""torch.compile of layers that draw or remember: one graph, and the bits of eager calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager
from torch.utils.checkpoint import checkpoint

import narrowgauge as ng
from narrowgauge.formats.stages import Draw
from narrowgauge.nn import RECIPES, QuantConv1d, QuantLinear, Recipe, recipe
from narrowgauge.nn.calls import PLAIN, LayerCalls
from narrowgauge.nn.operand import make_operand
from narrowgauge.nn.traced_calls import TracedCall

T, K = 20, 40
STOCHASTIC = recipe("stochastic", every="e4m3fn/row+sr")
DELAYED = recipe("delayed", every="dynamic8:delayed=2")  # looked up: less to trace
MINE = (
    STOCHASTIC,
    recipe("delayed, stochastic", every="e4m3fn:delayed=3+sr", g="int8/row+sr"),
    recipe("outputs", every="int8/32x32", out_fprop="int8/32x32+sr", out_dgrad="int8/32x32+sr", out_wgrad="mxfp4"),
    recipe("sums", every="mxfp8", accumulate="dlfloat16/16+sr"),
    recipe("signs turned back", x_fprop="mxfp4+rht32fresh", w_fprop="mxfp4+rht32fresh", requantize=True,
           g="mxfp4+sr", w_dgrad="mxfp4", x_wgrad="mxfp4+sr"),
    recipe("fixed signs turned back", x_fprop="nvfp4+rht16", w_fprop="nvfp4+rht16", requantize=True, w_dgrad="mxfp4"),
)  # fmt: skip
QUICK = ("nvfp4", "tetrajet_qema", "quartet", "fp4_dge_occ", "statquant_bhq", "int8_fallback", "s2fp8", "gupta16")


class Twice(nn.Module):
    """A layer that is used twice."""

    def __init__(self, chosen: str | Recipe, way: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.way = QuantLinear(K, K, recipe=chosen, seed=3), way

    def part(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.tanh(self.layer(x))))

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * (self.part(x) if self.way is None else self.way(self.part, x))


class Counted:
    """The backend that runs graphs operation by operation, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return aot_eager(graph, inputs)


def inputs(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(T, K, generator=generator).requires_grad_(), 1e-2 * torch.randn(T, K, generator=generator))
        for _ in range(steps)
    ]


def train(model: nn.Module, run: Callable[[Tensor], Tensor], steps: int = 3) -> list[Tensor]:
    """All outputs and gradients of some steps, then the state."""
    seen = []
    for x, g in inputs(steps):
        model.zero_grad()
        y = run(x)
        y.backward(g)
        seen += [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return seen + [buffer.clone() for buffer in model.buffers()]


def begin(model: nn.Module, chosen: str | Recipe) -> nn.Module:
    """The learned step of an input has its first value from one eager call, which a graph cannot wait for."""
    if chosen == "int4":
        model(inputs(1)[0][0])
    return model


def assert_one_graph_with_the_bits_of_eager_calls(chosen: str | Recipe) -> None:
    torch.compiler.reset()
    plain, model, backend = begin(Twice(chosen), chosen), begin(Twice(chosen), chosen), Counted()
    expected = train(plain, plain)
    actual = train(model, torch.compile(model, fullgraph=True, backend=backend))
    assert backend.graphs == 1
    assert len(actual) == len(expected)
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("chosen", [*QUICK, *MINE], ids=lambda chosen: getattr(chosen, "name", chosen))
def test_a_layer_is_one_graph_with_the_bits_of_eager_calls(chosen: str | Recipe) -> None:
    assert_one_graph_with_the_bits_of_eager_calls(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [name for name in RECIPES if name not in QUICK])
def test_every_recipe_is_one_graph_with_the_bits_of_eager_calls(chosen: str) -> None:
    assert_one_graph_with_the_bits_of_eager_calls(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["mxfp8", "nvfp4", "quartet", "fp8_delayed", "int4"])
def test_inductor_gives_the_same_products(chosen: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    layers = [QuantLinear(K, K, recipe=chosen, bias=False) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer in layers:
        begin(layer, chosen)
    expected = train(layers[0], layers[0])
    actual = train(layers[1], torch.compile(layers[1], fullgraph=True))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def checkpointed(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(part, x, use_reentrant=False)


@pytest.mark.parametrize("chosen", [STOCHASTIC, DELAYED, "tetrajet_qema"], ids=lambda c: getattr(c, "name", c))
@pytest.mark.parametrize("inside", [True, False], ids=["compiled with its checkpoints", "compiled part checkpointed"])
def test_forwards_that_are_run_again_draw_and_scale_as_they_did(inside: bool, chosen: str | Recipe) -> None:
    torch.compiler.reset()
    plain, model = Twice(chosen), Twice(chosen, checkpointed)
    expected = train(plain, plain)
    if inside:
        run: Callable[[Tensor], Tensor] = torch.compile(model, fullgraph=True, backend="aot_eager")
    else:
        model.part, run = torch.compile(model.part, fullgraph=True, backend="aot_eager"), model
    for one, other in zip(train(model, run), expected, strict=True):
        assert torch.equal(one, other)


def test_layers_that_differ_in_their_seeds_share_a_graph() -> None:
    torch.compiler.reset()
    backend = Counted()
    layers = nn.ModuleList(QuantLinear(K, K, recipe=STOCHASTIC, seed=seed) for seed in range(3))
    x = torch.randn(T, K)
    for layer in layers:
        expected = layer(x)
        layer.rounding_step.zero_()
        assert torch.equal(torch.compile(layer.forward, fullgraph=True, backend=backend)(x), expected)
    assert backend.graphs == 1


def test_evaluation_and_training_are_told_apart() -> None:
    torch.compiler.reset()
    layer = QuantLinear(K, K, recipe=recipe("both", every="e4m3fn:delayed=2+sr"))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(T, K)
    compiled(x)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    layer.eval()
    with torch.no_grad():
        first = compiled(x)
        assert torch.equal(first, compiled(x))
        assert torch.equal(first, layer(x))
    assert all(torch.equal(state[key], value) for key, value in layer.state_dict().items())
    layer.train()
    assert torch.equal(compiled(x), first)
    assert not torch.equal(compiled(x), first)
    assert int(layer.rounding_step) == 3


def test_groups_of_a_convolution_have_streams_of_their_own() -> None:
    torch.compiler.reset()
    layers = [QuantConv1d(8, 12, 3, groups=2, recipe=STOCHASTIC, seed=7) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 8, 9)
    compiled = torch.compile(layers[1], fullgraph=True, backend="aot_eager")
    for _ in range(2):
        assert torch.equal(compiled(x), layers[0](x))


def test_autocast_is_that_of_eager_calls() -> None:
    torch.compiler.reset()
    layers = [QuantLinear(K, K, recipe="gupta16", seed=7) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x, results = torch.randn(T, K), []
    for run in (layers[0], torch.compile(layers[1], fullgraph=True, backend="aot_eager")):
        with torch.autocast("cpu", torch.bfloat16):
            results.append(run(x))
        results[-1].float().sum().backward()
    assert results[0].dtype == torch.bfloat16
    assert torch.equal(*results)
    assert torch.equal(layers[0].weight.grad, layers[1].weight.grad)


OPERANDS = (
    "e4m3fn/row+sr", "nvfp4+sr+rht16", "mxfp4+sr+rht32fresh+gain0.75", "uint8/row+sr+affine", "uint8/row+sr+bhq+affine",
    "e2m1fn/row+occ0.9", "e5m2:static=1.0+s2", "int8/8x8+fallback0.2", "e2m1fn/1x32:static=1.0+rms2.9",
    "radix4_fp4_odd:static=1.0+top4096", "int8:static=1.0+sr+planes", "q5.10:static=1.0+sr", "bf16/row+h16",
    "int8/row+smooth",
)  # fmt: skip


@pytest.mark.parametrize("text", OPERANDS)
def test_what_is_traced_has_the_shapes_and_strides_of_what_runs(text: str) -> None:
    x = torch.randn(36, 50, generator=torch.Generator().manual_seed(0))
    numbers = torch.tensor([3, 32, 0])
    for given in (x, x.t(), x[::2, 1::2], x.t()[1:], x.bfloat16().t()[1:], x.double().t()[1:]):
        torch.library.opcheck(
            torch.ops.narrowgauge.operand.default, (given, None, text, numbers, 4, 8), test_utils="test_faketensor"
        )
        made = make_operand(given, text, Draw(3, 36, 40))
        traced = TracedCall(numbers, (None,) * 4 + (text, None), records=True).operand(given, text, 4)
        for one, other in zip(made, traced, strict=True):
            assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def test_operations_that_write_say_so() -> None:
    calls, x = LayerCalls(), torch.randn(T, K)
    step = torch.zeros((), dtype=torch.int64)
    seed = torch.tensor(5)
    state = QuantLinear(K, K, recipe=DELAYED).scales["x_fprop"]
    numbers = torch.ops.narrowgauge.begin_call(x, step, calls.key, seed, True, True)
    assert numbers.tolist()[:2] == [5, 0]
    assert int(step) == 1
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.narrowgauge.stateful_scale.default,
        (x, list(state.buffers()), "dynamic8:delayed=2", numbers, 0, False, True),
        test_utils=tests,
    )
    torch.library.opcheck(
        torch.ops.narrowgauge.product_signs.default, (x, "mxfp4+rht32fresh", numbers, 8), test_utils=tests
    )
    torch.library.opcheck(
        torch.ops.narrowgauge.drawn_sums.default, (x, x, "dlfloat16/16+sr", numbers, 9), test_utils=tests
    )


def test_layers_without_draws_have_the_plain_call() -> None:
    assert QuantLinear(K, K)._calls is None
    assert ng.convert(nn.Sequential(nn.Linear(K, K)), "fp8_row")[0]._calls is None
    assert PLAIN.offset == 0
