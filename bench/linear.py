"""Forward and backward of `QuantLinear` under each recipe, against `nn.Linear` in float32.

The scaled GEMM is held to its reference on its own samples before any speed counts. Beside the time stands what it
costs in accuracy: the signal-to-noise ratio of output and gradients against the float32 layer's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from narrowgauge.bench.conformance import check_samples
from narrowgauge.bench.report import Row, SuiteResult
from narrowgauge.bench.timer import time_interleaved
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.nn import QuantLinear, get_recipe
from narrowgauge.numerics import sqnr_db

BASELINE = "nn.Linear"
RECIPES = ("fp8_tensor", "fp8_row", "fp8_deepseek", "mxfp8", "nvfp4", "mxfp4_rht_sr", "int8_switchback", "rf8", "fp32")
"""What is timed by default; `narrowgauge bench recipes` has them all."""
SEED = 20260101
Results = tuple[Tensor, Tensor, Tensor]


def forward_backward(layer: nn.Linear, x: Tensor, grad: Tensor) -> Callable[[], Results]:
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
    device: torch.device | str = "cpu",
    repetitions: int = 15,
) -> SuiteResult:
    """Times a layer of `size` inputs and outputs on `size` tokens, no bias, under `recipes` (None: `RECIPES`).

    Figures: milliseconds; sqnr_y_db, sqnr_dx_db, sqnr_dw_db. Raises AssertionError when the scaled GEMM is outside its
    bound, ValueError for sizes below 1 and unknown recipes.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size}")
    chosen = [get_recipe(name) for name in (RECIPES if recipes is None else recipes)]
    check_samples(GEMM, device)
    rng = torch.Generator().manual_seed(SEED)
    x, grad = (torch.randn((size, size), generator=rng).to(device) for _ in range(2))
    plain = nn.Linear(size, size, bias=False, device=device)
    with torch.no_grad():
        plain.weight.copy_(torch.randn((size, size), generator=rng) / size**0.5)
    calls = {BASELINE: forward_backward(plain, x, grad)}
    for number, recipe in enumerate(chosen):
        calls[recipe.name] = forward_backward(_quantized(plain, recipe.name, number), x, grad)
    expected = calls[BASELINE]()
    accuracy = {name: _accuracy(call(), expected) for name, call in calls.items()}
    timings = time_interleaved(calls, device=device, repetitions=repetitions)
    base = timings[BASELINE].median
    rows = [
        Row(name, timing, timing.median / base, {"milliseconds": timing.median * 1e3, **accuracy[name]})
        for name, timing in timings.items()
    ]
    settings = {"tokens": size, "inputs": size, "outputs": size, "dtype": "float32", "device": str(x.device)}
    return SuiteResult("linear", {**settings, "repetitions": repetitions, "seed": SEED}, BASELINE, rows)


def _quantized(plain: nn.Linear, recipe: str, seed: int) -> QuantLinear:
    # A weight of its own: the layers' gradients must not overwrite each other.
    layer = nn.Linear(plain.in_features, plain.out_features, bias=False, device=plain.weight.device)
    layer.load_state_dict(plain.state_dict())
    return QuantLinear.from_linear(layer, recipe, seed=seed)


def _accuracy(actual: Results, expected: Results) -> dict[str, float]:
    names = ("sqnr_y_db", "sqnr_dx_db", "sqnr_dw_db")
    return {name: sqnr_db(a, e) for name, a, e in zip(names, actual, expected, strict=True)}
