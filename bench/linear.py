"""Forward and backward of `QuantLinear` under each recipe, against `nn.Linear` in the same dtype.

The scaled GEMM is held to its reference on its own samples before any speed counts. Beside the time stands what it
costs in accuracy: the signal-to-noise ratio of output and gradients against the float32 layer's. A layer [N, K] on M
tokens computes three products, 6·M·N·K FLOPs, and has to read x, w, dy and to write y, dx, dw. Copy bandwidth and the
rate of large products are measured in turn with the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from narrowgauge.bench.ceilings import Ceilings, Probes, middle
from narrowgauge.bench.conformance import check_samples
from narrowgauge.bench.machine import check_device
from narrowgauge.bench.model_shapes import Problem, model_problems, parse_shape
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.timer import Timing, time_interleaved
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.nn import QuantLinear, Recipe, get_recipe
from narrowgauge.numerics import sqnr_db

BASELINE = "nn.Linear"
RECIPES = ("fp8_tensor", "fp8_row", "fp8_deepseek", "mxfp8", "nvfp4", "mxfp4_rht_sr", "int8_switchback", "rf8", "fp32")
"""What is timed by default; `narrowgauge bench recipes` has them all."""
SEED = 20260101
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRODUCTS = 3
Results = tuple[Tensor, Tensor, Tensor]
Call = Callable[[], Results]


def forward_backward(layer: nn.Linear, x: Tensor, grad: Tensor) -> Call:
    """A call that computes (y, dx, dW) of the layer."""
    leaf = x.clone().requires_grad_(True)

    def call() -> Results:
        leaf.grad = layer.weight.grad = None
        y = layer(leaf)
        y.backward(grad)
        if leaf.grad is None or layer.weight.grad is None:
            raise RuntimeError(f"{layer}: backward left a gradient empty")
        return y.detach(), leaf.grad, layer.weight.grad

    return call


def run_suite(
    size: int = 1024,
    recipes: Sequence[str] | None = None,
    *,
    shapes: Sequence[str] = (),
    models: Sequence[str] = (),
    tokens: int = 2048,
    dtype: str = "float32",
    device: torch.device | str = "cpu",
    repetitions: int = 15,
    probes: Probes | None = None,
    save: Callable[[SuiteResult], None] | None = None,
) -> SuiteResult:
    """Times layers without bias under `recipes` (None: `RECIPES`), on each of `shapes` ("MxNxK": M tokens, N outputs, K
    inputs) and the linear layers of `models` for so many `tokens`, or on [size, size, size] where neither is given.

    probes: what measures the ceilings. save is given what there is after each shape. Rows are called
    "2048x4096x4096: fp8_row". Figures: milliseconds; tflop_per_s and peak_percent, its share of torch's large products
    in `dtype` where those are measured; intensity_flop_per_byte; sqnr_y_db, sqnr_dx_db, sqnr_dw_db.

    Raises AssertionError when the scaled GEMM is outside its bound, ValueError for shapes, dtypes and recipes that are
    unknown or empty.
    """
    check_device(device)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, accepted: {', '.join(DTYPES)}")
    problems = layers(size, shapes, models, tokens)
    chosen = [get_recipe(name) for name in (RECIPES if recipes is None else recipes)]
    check_samples(GEMM, device)
    probes = Probes(device) if probes is None else probes
    rows: list[Row] = []
    found: list[Ceilings] = []
    settings = {"dtype": dtype, "device": str(probes.device), "repetitions": repetitions, "seed": SEED}
    for problem in problems:
        calls, expected = _calls(problem, chosen, DTYPES[dtype], probes.device)
        accuracy = {name: _accuracy(call(), expected) for name, call in calls.items()}
        timings = time_interleaved({**calls, **probes.calls()}, device=device, repetitions=repetitions)
        found.append(probes.read(timings))
        rows += _rows(problem, timings, accuracy, found[-1], dtype)
        result = SuiteResult("linear", settings, BASELINE, rows, ceilings=middle(found).figures())
        if save is not None:
            save(result)
    return result


def layers(size: int, shapes: Sequence[str], models: Sequence[str], tokens: int) -> list[Problem]:
    """What is timed; see `run_suite`."""
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    found = [parse_shape(text) for text in shapes]
    if models:
        found += model_problems(models, [tokens])
    return list(dict.fromkeys(found)) or [parse_shape(f"{size}x{size}x{size}")]


def _calls(
    problem: Problem, recipes: Sequence[Recipe], dtype: torch.dtype, device: torch.device
) -> tuple[dict[str, Call], Results]:
    """The layers by name, and what the float32 layer gives for the same values."""
    rng = torch.Generator().manual_seed(SEED)
    x, grad = (torch.randn((problem.m, n), generator=rng).to(device, dtype) for n in (problem.k, problem.n))
    weight = (torch.randn((problem.n, problem.k), generator=rng) / problem.k**0.5).to(device, dtype)
    calls = {BASELINE: forward_backward(_plain(weight), x, grad)}
    for number, recipe in enumerate(recipes):
        # A weight of its own: the layers' gradients must not overwrite each other.
        layer = QuantLinear.from_linear(_plain(weight), recipe.name, seed=number)
        calls[recipe.name] = forward_backward(layer, x, grad)
    return calls, forward_backward(_plain(weight.float()), x.float(), grad.float())()


def _plain(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def _rows(
    problem: Problem, timings: Mapping[str, Timing], accuracy: Mapping[str, dict[str, float]], ceilings: Ceilings,
    dtype: str,
) -> Iterator[Row]:  # fmt: skip
    m, n, k = problem.m, problem.n, problem.k
    moved = 2 * (m * k + n * k + m * n) * DTYPES[dtype].itemsize
    for name, errors in accuracy.items():
        timing = timings[name]
        rate = PRODUCTS * problem.flops / timing.median
        figures = {"milliseconds": timing.median * 1e3, "tflop_per_s": rate / 1e12}
        if dtype in ceilings.matrix:
            figures["peak_percent"] = ceilings.share_of_peak(rate, dtype)
        figures |= {"intensity_flop_per_byte": PRODUCTS * problem.flops / moved, **errors}
        yield Row(f"{problem.name}: {name}", timing, timing.median / timings[BASELINE].median, figures)


def _accuracy(actual: Results, expected: Results) -> dict[str, float]:
    names = ("sqnr_y_db", "sqnr_dx_db", "sqnr_dw_db")
    return {name: sqnr_db(a.float(), e) for name, a, e in zip(names, actual, expected, strict=True)}
