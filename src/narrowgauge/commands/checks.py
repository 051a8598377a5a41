"""What `narrowgauge doctor` tries out."""

from __future__ import annotations

import numpy as np
import torch

from narrowgauge.formats import quantize_reference
from narrowgauge.kernels import quantize
from narrowgauge.nn import RECIPES, convert, explain
from narrowgauge.numerics import assert_bitwise

SCHEMES = ("e4m3fn/row", "e5m2", "e4m3fn/1x128", "e4m3fn/row+sr", "int8/32x32", "rf8/row", "mxfp8", "mxfp4", "nvfp4")
SHAPE = (48, 256)
SEED = 7


def recipe_homes(device: str) -> dict[str, dict[str, str]]:
    """Recipe → GEMM → how it runs on `device`."""
    homes = {}
    for name, recipe in RECIPES.items():
        if recipe.quantized:
            model = convert(torch.nn.Sequential(torch.nn.Linear(128, 128, device=device)), recipe)
            (row,) = explain(model).rows
            homes[name] = {gemm: info.runs for gemm, info in row.gemms.items()}
    return homes


def round_trips(device: str) -> dict[str, str]:
    """Scheme → what is wrong with quantize and dequantize on `device` against the definition; "" if nothing."""
    x = np.random.default_rng(SEED).standard_normal(SHAPE).astype(np.float32)
    problems = {}
    for scheme in SCHEMES:
        try:
            _check(x, scheme, device)
            problems[scheme] = ""
        except AssertionError as difference:
            problems[scheme] = str(difference)
    return problems


def _check(x: np.ndarray, scheme: str, device: str) -> None:
    expected = quantize_reference(x, scheme, seed=SEED)
    actual = quantize(torch.from_numpy(x).to(device), scheme, seed=SEED)
    assert_bitwise(actual.codes.cpu(), expected.codes, name="codes")
    assert_bitwise(actual.scale.cpu(), expected.scale, name="scale")
    # The definition's product is exact, the kernel's is rounded to float32 once.
    assert_bitwise(actual.dequantize().cpu(), expected.dequantize().astype(np.float32), name="values")
