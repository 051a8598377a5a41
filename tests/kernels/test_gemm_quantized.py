"""scaled_gemm_quantized beside the conformance suite: the fused epilogue gives the codes of product and quantize."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.formats import parse, quantize_reference
from narrowgauge.kernels import _gemm_triton as kernels
from narrowgauge.kernels._gemm_activation import ACTIVATIONS
from narrowgauge.kernels._gemm_config import Config, candidates, product_of
from narrowgauge.kernels._gemm_requantise import Codes, fits
from narrowgauge.kernels._gpu_facts import GPUS
from narrowgauge.kernels._quantize_torch import quantize_torch
from narrowgauge.kernels.gemm_quantized import GEMM_QUANTIZED, Results, _empty, _prepared

pytest.importorskip("triton", reason="the package triton is not installed")

SMALL = Config(block_m=32, block_n=32, block_k=32, halves=1, num_warps=4, num_stages=2, group_m=2)
FUSED = (
    "e4m3fn/1x32",
    "int8/16x32",
    "mxfp8",
    "e5m2/16x16:pow2",
    "e4m3fn:static=0.05",
    "int8/row:static=0.1",
    "nf4/1x16",
)


@pytest.fixture(autouse=True)
def _cpu_only(device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("configurations are forced in the interpreter alone")


def operand(rng: np.random.Generator, rows: int, cols: int, scheme: str) -> tuple[Tensor, Tensor]:
    q = quantize_reference(rng.standard_normal((rows, cols)).astype(np.float32), scheme)
    return torch.from_numpy(q.codes), torch.from_numpy(np.asarray(q.scale))


def product(m: int, n: int, k: int, activation: str = "none") -> kernels.Call:
    rng = np.random.default_rng(m + 100 * n)
    specs = parse("e4m3fn/row"), parse("e4m3fn/1x32")
    sides = (*operand(rng, m, k, str(specs[0])), *operand(rng, n, k, str(specs[1])))
    return kernels.Call(*sides, *specs, torch.linspace(-2, 2, n), activation)


def fused(call: kernels.Call, scheme: str, config: Config) -> Results:
    spec = parse(scheme)
    codes, scale, outer = _empty(call.a, call.b, spec)
    assert kernels.launch(call._replace(codes=Codes(spec, _prepared(scale, spec), 3, 4)), codes, config)
    return codes, scale, outer


def assert_same(actual: Results, expected: Results) -> None:
    for name, a, e in zip(("codes", "scale", "outer"), actual, expected, strict=True):
        assert a.shape == e.shape, name
        assert a.numpy().tobytes() == e.numpy().tobytes(), name


@pytest.mark.parametrize("scheme", [*FUSED, "e4m3fn/1x32+sr"])
def test_the_epilogue_writes_the_codes_of_product_and_quantize(scheme: str, poisoned_empty: None) -> None:
    call = product(37, 45, 40)
    for config in (SMALL, SMALL._replace(split_k=2), SMALL._replace(persistent=True, halves=2)):
        y = kernels.multiply(call, torch.float32, config)
        assert_same(fused(call, scheme, config), quantize_torch(y, scheme, 3, 4))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_codes_are_those_of_the_activated_sum(activation: str) -> None:
    call = product(20, 40, 40, activation)
    with np.errstate(over="ignore"):
        y = kernels.multiply(call, torch.float32, SMALL)
        assert_same(fused(call, "e4m3fn/1x32", SMALL), quantize_torch(y, "e4m3fn/1x32", 0, 0))


@pytest.mark.parametrize("scheme", ["mxfp8", "e4m3fn/1x32"])
def test_a_sum_that_is_not_finite_spoils_its_own_tile_alone(scheme: str) -> None:
    call = product(5, 64, 32)
    call.a_scale[2] = torch.nan
    with np.errstate(invalid="ignore"):
        y = kernels.multiply(call, torch.float32, SMALL)
        assert_same(fused(call, scheme, SMALL), quantize_torch(y, scheme, 0, 0))


def test_a_sum_that_is_not_finite_spoils_a_given_scale() -> None:
    call = product(5, 64, 32)
    call.a_scale[2] = torch.nan
    with np.errstate(invalid="ignore"):
        assert torch.isnan(fused(call, "e4m3fn:static=0.05", SMALL)[1]).all()
        rows = torch.isnan(fused(call, "e4m3fn/row:static=0.05", SMALL)[1])
    assert rows.flatten().tolist() == [False, False, True, False, False]


def test_what_fits_a_tile_is_known_beforehand() -> None:
    yes = ("e4m3fn/1x128", "e4m3fn/128x128", "mxfp4", "int8:static=0.1", "int8/row:static=0.1", "e5m2/32x64:pow2")
    no = ("e4m3fn", "e4m3fn/row", "int8/col", "nvfp4", "int8/1x48", "e4m3fn/1x256", "int8/1x32:mse", "mx6")
    assert [scheme for scheme in (*yes, *no) if fits(parse(scheme), 128, 128)] == list(yes)


@pytest.mark.parametrize("target", GPUS)
def test_every_target_has_a_launch_for_codes_in_blocks(target: str) -> None:
    for m in (16, 8192):
        wanted = product_of(m, 4096, 4096, parse("e4m3fn/row"), parse("e4m3fn/row"), out=1)
        for scheme in ("e4m3fn/1x32", "mxfp8", "int8:static=0.1"):
            found = kernels.launches(wanted, target, scheme)
            assert found
            assert set(found) <= set(candidates(wanted, target))
        assert kernels.launches(wanted, target, "e4m3fn/row") == ()


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "nvfp4", "e4m3fn", "int8/3x40"])
def test_schemes_whose_tiles_do_not_fit_are_quantised_after_the_product(scheme: str) -> None:
    call = product(20, 45, 64)
    args: tuple[Any, ...] = (*call[:4], str(call.spec_a), str(call.spec_b), call.bias, "relu", scheme, 1, 2)
    first, second = (GEMM_QUANTIZED.implementation(name)(*args) for name in ("torch", "triton"))
    values = [GEMM_QUANTIZED.bound.values(args, outputs)[0] for outputs in (first, second)]
    torch.testing.assert_close(values[0], values[1], rtol=0.15, atol=0.15)


def test_a_lost_term_is_outside_of_the_bound() -> None:
    call = product(20, 64, 257)
    args: tuple[Any, ...] = (*call[:4], str(call.spec_a), str(call.spec_b), None, "none", "int8/1x64", 1, 2)
    cut = call.a.clone()
    cut[:, :40] = 0
    values = [
        GEMM_QUANTIZED.bound.values(args, outputs)[0].double()
        for outputs in (GEMM_QUANTIZED(cut, *args[1:]), GEMM_QUANTIZED.reference(*args))
    ]
    outside = (values[0] - values[1]).abs() > GEMM_QUANTIZED.bound.tolerance(*args)[0]
    assert outside.double().mean() > 0.5


def test_wrong_arguments_are_refused_by_name() -> None:
    call = product(4, 8, 32)
    args: tuple[Any, ...] = (*call[:4], str(call.spec_a), str(call.spec_b), None)
    with pytest.raises(ValueError, match="activation: got 'tanh'"):
        GEMM_QUANTIZED(*args, "tanh", "mxfp8", 0, 0)
    with pytest.raises(ValueError, match="at most 8 bits"):
        GEMM_QUANTIZED(*args, "none", "fp16", 0, 0)
