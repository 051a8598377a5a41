"""Which roof a competitor stands under, and what it may err by."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench.gemm_check import Rounding, hopper_partial
from narrowgauge.bench.gemm_competitor import FLOAT8, float8_rounding, in_multiples, matrix_unit, moved, out_dtype
from narrowgauge.bench.gemm_inputs import Inputs
from narrowgauge.bench.model_shapes import Problem
from narrowgauge.formats import parse

GPU = ("float32", "int8", "bfloat16", "float16", FLOAT8)


@pytest.mark.parametrize(
    ("x", "w", "units", "expected"),
    [
        ("e4m3fn/row", "e4m3fn/128x128", GPU, FLOAT8),
        ("e5m2", "e4m3fn", GPU, FLOAT8),
        ("e4m3fn", "e4m3fn", GPU[:-1], "bfloat16"),
        ("mxfp8", "mxfp8", GPU, FLOAT8),
        ("int8/row", "int8", GPU, "int8"),
        ("int8/row", "int8", ("float32",), "float32"),
        (None, "int8/row", GPU, "bfloat16"),
        (None, None, ("float32", "int8"), "float32"),
        ("nvfp4", "nvfp4", GPU, "bfloat16"),
    ],
)
def test_roofs(x: str | None, w: str | None, units: tuple[str, ...], expected: str) -> None:
    specs = [None if scheme is None else parse(scheme) for scheme in (x, w)]
    assert matrix_unit(*specs, units) == expected


def test_short_sums_are_of_ada_and_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    for capability, partial in (((9, 0), hopper_partial(512, 128)), ((8, 9), hopper_partial(512, 128)), ((10, 0), 0.0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert float8_rounding(device, FLOAT8, 512, 128) == Rounding(partial=partial)
    assert float8_rounding(device, "bfloat16", 512, 128) == Rounding()


def test_sizes() -> None:
    assert moved(torch.zeros(3, dtype=torch.int8), torch.zeros(2), out=5) == 3 + 8 + 5
    assert out_dtype(torch.device("cpu")) == torch.float32
    assert out_dtype(torch.device("cuda")) == torch.bfloat16
    inputs = Inputs(Problem("p", 1, 16, 32), "cpu", torch.float32, 0)
    in_multiples(inputs, 16, 32)
    with pytest.raises(ValueError, match="takes N in multiples of 16 and K in multiples of 64"):
        in_multiples(inputs, 16, 64)
