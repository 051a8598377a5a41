"""Peers multiply our codes, or say why they cannot; those of GPUs are called as their documentation has it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from narrowgauge.bench import gemm_peers
from narrowgauge.bench.gemm_check import check_product
from narrowgauge.bench.gemm_inputs import Inputs
from narrowgauge.bench.gemm_peers import PEERS, deep_gemm_of, peer_makers, transformer_engine_of
from narrowgauge.bench.model_shapes import Problem
from narrowgauge.kernels import quantize

UNITS = ("float32",)
SIZES = 32, 64, 256


def inputs_of(m: int = 32, n: int = 64, k: int = 256, dtype: torch.dtype = torch.float32) -> Inputs:
    return Inputs(Problem("p", m, n, k), "cpu", dtype, seed=0)


def error(name: str, inputs: Inputs) -> float:
    racer = PEERS[name](UNITS, inputs)
    y = racer.call()
    assert y.dtype in racer.dtypes
    assert racer.note
    assert racer.unit == "float32"
    return check_product(y, racer.operands, inputs.problem.k, racer.rounding)


@pytest.mark.parametrize("name", ["torch._scaled_mm tensor", "torch._scaled_mm row", "torch._int_mm"])
def test_products_of_torch_on_our_codes(name: str) -> None:
    inputs = inputs_of()
    first = error(name, inputs)
    assert first < 1e-5
    inputs.refill(1)
    assert error(name, inputs) < 1e-5


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("torch._scaled_mm row", (8, 24, 256), "takes N in multiples of 16 and K in multiples of 16"),
        ("torch._scaled_mm row, fast", SIZES, "fast accumulation is of GPUs"),
        ("torch scaled_mm 1x128 · 128x128", SIZES, "needs an NVIDIA GPU"),
        ("DeepGEMM", SIZES, "is not installed"),
        ("TransformerEngine fp8", SIZES, "is not installed"),
        ("TransformerEngine mxfp8", SIZES, "is not installed"),
    ],
)
def test_what_cannot_serve_says_why(name: str, shape: tuple[int, int, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PEERS[name](UNITS, inputs_of(*shape))


def test_installed_on_a_machine_that_is_no_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_peers, "installed", lambda name: SimpleNamespace())
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        PEERS["DeepGEMM"](UNITS, inputs_of())


def test_deep_gemm_gets_codes_with_scales_of_blocks() -> None:
    inputs = inputs_of(40, 192, 384, torch.bfloat16)

    def fp8_gemm_nt(a, b, out) -> None:
        (x, x_scale), (w, w_scale) = a, b
        assert x.dtype == w.dtype == torch.float8_e4m3fn
        assert x_scale.shape == (40, 3)
        assert w_scale.shape == (2, 3)
        rows = w_scale.repeat_interleave(128, 0)[:192].repeat_interleave(128, 1)
        out.copy_((x.float() * x_scale.repeat_interleave(128, 1)) @ (w.float() * rows).t())

    schemes = "e4m3fn/1x128", "e4m3fn/128x128"
    racer = deep_gemm_of(SimpleNamespace(fp8_gemm_nt=fp8_gemm_nt), schemes, UNITS, inputs)
    y = racer.call()
    assert racer.dtypes == (torch.bfloat16,)
    assert check_product(y, racer.operands, 384, racer.rounding) < 2**-8


def test_transformer_engine_gets_the_weight_first(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(dtype=torch.bfloat16)

    class Quantizer:
        def __init__(self, dtype, device=None) -> None:
            assert dtype == "e4m3"
            assert device == inputs.device

        def quantize(self, x):
            return quantize(x, "e4m3fn")

    def general_gemm(a, b, out_dtype, layout):
        assert layout == "TN"
        return (b.dequantize() @ a.dequantize().t()).to(out_dtype), None

    monkeypatch.setattr(gemm_peers, "installed", lambda name: SimpleNamespace(general_gemm=general_gemm))
    module = SimpleNamespace(Float8CurrentScalingQuantizer=Quantizer)
    native = SimpleNamespace(DType=SimpleNamespace(kFloat8E4M3="e4m3"))
    racer = transformer_engine_of(module, native, "Float8CurrentScalingQuantizer", "e4m3fn", UNITS, inputs)
    assert check_product(racer.call(), racer.operands, 256, racer.rounding) < 2**-7


def test_all_peers_have_makers() -> None:
    assert set(peer_makers(UNITS)) == set(PEERS)


@pytest.mark.parametrize(
    ("package", "name", "most"), [("bitsandbytes", "bitsandbytes int8", 0.0), ("torchao", "torchao int8 linear", 0.02)]
)
def test_optional_peers_are_right(package: str, name: str, most: float) -> None:
    pytest.importorskip(package)
    inputs = inputs_of()
    assert error(name, inputs) <= most
    inputs.refill(1)
    assert error(name, inputs) <= most
