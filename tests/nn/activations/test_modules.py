"""Drop-in modules: the bits of the plain ones forward, gradients within what the scheme's rounding allows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import narrowgauge as ng

R, K = 33, 160
SCHEMES = ("int8/1x128", "e4m3fn/1x16", "mxfp8", "int4/1x32")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class PlainSwiGLU(nn.Module):
    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up


PAIRS: dict[str, tuple[Callable[..., nn.Module], Callable[[], nn.Module], int]] = {
    "RMSNorm": (lambda **k: ng.nn.RMSNorm(K, eps=1e-5, **k), lambda: nn.RMSNorm(K, eps=1e-5), 1),
    "LayerNorm": (lambda **k: ng.nn.LayerNorm(K, **k), lambda: nn.LayerNorm(K), 1),
    "LayerNorm without bias": (lambda **k: ng.nn.LayerNorm(K, bias=False, **k), lambda: nn.LayerNorm(K, bias=False), 1),
    "GELU": (lambda **k: ng.nn.GELU(**k), nn.GELU, 1),
    "GELU tanh": (lambda **k: ng.nn.GELU("tanh", **k), lambda: nn.GELU("tanh"), 1),
    "SiLU": (lambda **k: ng.nn.SiLU(**k), nn.SiLU, 1),
    "SwiGLU": (lambda **k: ng.nn.SwiGLU(**k), PlainSwiGLU, 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", PAIRS)
def test_output_has_the_bits_of_the_plain_module(name: str, dtype: torch.dtype) -> None:
    make, plain, count = PAIRS[name]
    inputs = [normal(2, R, K, seed=seed).to(dtype).requires_grad_() for seed in range(count)]
    own, other = make().to(dtype), plain().to(dtype)
    assert list(own.state_dict()) == list(other.state_dict())
    y = own(*inputs)
    assert torch.equal(y, other(*inputs))
    y.sum().backward()
    assert all(x.grad is not None and x.grad.dtype == dtype for x in inputs)
    assert all(p.grad is not None and p.grad.dtype == dtype for p in own.parameters())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_those_at_the_restored_input(name: str, scheme: str) -> None:
    make, plain, count = PAIRS[name]
    inputs = [normal(R, K, seed=seed).requires_grad_() for seed in range(count)]
    own, grad = make(scheme=scheme), normal(R, K, seed=9)
    own(*inputs).backward(grad)
    restored = [ng.quantize(x, scheme).dequantize().double().requires_grad_() for x in inputs]
    other = plain().double()
    other(*restored).backward(grad.double())
    for x, exact in zip(inputs, restored, strict=True):
        torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)
    for p, exact in zip(own.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)


def error_bound(x: Tensor, scheme: str) -> Tensor:
    """How far from x the restored value may be: half a step of an integer code, half an ulp of a float's."""
    q = ng.quantize(x, scheme)
    element = q.scheme.element
    factors = q.factors().repeat_interleave(q.scheme.factor_tile[1], dim=1)[:, : x.shape[1]].double()
    values = torch.from_numpy(element.values())
    values = values[values.isfinite()].double().sort().values
    return factors * _half_gap(x.double() / factors, values)


def _half_gap(scaled: Tensor, values: Tensor) -> Tensor:
    above = torch.searchsorted(values, scaled.contiguous()).clamp(1, len(values) - 1)
    return (values[above] - values[above - 1]) / 2 * (1 + 1e-6)


CURVATURE = {"GELU": 2 / (2 * torch.pi) ** 0.5, "SiLU": 0.5}
"""max |f''|: at 0 for both (φ(0)·2 and 1/2)."""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", CURVATURE)
def test_gradients_are_within_the_curvature_times_the_rounding_error(name: str, scheme: str) -> None:
    make, plain, _ = PAIRS[name]
    x, grad = normal(R, K).requires_grad_(), normal(R, K, seed=9)
    make(scheme=scheme)(x).backward(grad)
    exact = x.detach().double().requires_grad_()
    plain().double()(exact).backward(grad.double())
    bound = CURVATURE[name] * error_bound(x.detach(), scheme) * grad.double().abs() + 1e-6
    difference = (x.grad.double() - exact.grad).abs()
    assert (difference <= bound).all()
    assert difference.max() > 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients_of_a_norm_are_within_the_turn_of_the_row(scheme: str) -> None:
    """dx = r(I − nnᵀ/K)g. A row that moves by ρ of its length changes r by at most ρ/(1−ρ) of it, and turns by ρ."""
    norm = ng.nn.RMSNorm(K, eps=0.0, elementwise_affine=False, scheme=scheme)
    x, grad = normal(R, K).requires_grad_(), normal(R, K, seed=9)
    norm(x).backward(grad)
    exact = x.detach().double().requires_grad_()
    F.rms_norm(exact, (K,), None, 0.0).backward(grad.double())
    rho = error_bound(x.detach(), scheme).norm(dim=1) / exact.detach().norm(dim=1)
    rstd = K**0.5 / exact.detach().norm(dim=1)
    bound = rstd * rho * (1 / (1 - rho) + 1) * grad.double().norm(dim=1)
    assert ((x.grad.double() - exact.grad).norm(dim=1) <= bound * (1 + 1e-5)).all()


def test_norm_does_not_share_scales_between_tokens() -> None:
    norm = ng.nn.RMSNorm(K)
    x = normal(R, K)
    x[3] *= 1e6
    quiet = normal(R, K)
    quiet.requires_grad_()
    x.requires_grad_()
    for leaf in (x, quiet):
        norm(leaf).backward(torch.ones(R, K))
    others = [row for row in range(R) if row != 3]
    assert torch.equal(x.grad[others], quiet.grad[others])
    with pytest.raises(ValueError, match="several tokens share a scale"):
        ng.nn.RMSNorm(K, scheme="int8/4x4")


@pytest.mark.parametrize("name", PAIRS)
def test_compiled_module_is_one_graph_with_the_same_bits(name: str) -> None:
    make, _, count = PAIRS[name]
    module, grad = make(), normal(R, K, seed=9)
    inputs = [normal(R, K, seed=seed).requires_grad_() for seed in range(count)]
    results = []
    torch.compiler.reset()
    for run in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        y = run(*inputs)
        results.append((y, *torch.autograd.grad(y, [*inputs, *module.parameters()], grad)))
    for plain, compiled in zip(*results, strict=True):
        assert torch.equal(plain, compiled)


def test_representation_names_the_scheme() -> None:
    assert repr(ng.nn.RMSNorm(8, scheme="mxint8")) == "RMSNorm((8,), eps=None, elementwise_affine=True, scheme=mxint8)"
    assert repr(ng.nn.SwiGLU()) == "SwiGLU(scheme=int8/1x128)"


def test_gate_and_up_that_do_not_match_are_named() -> None:
    with pytest.raises(ValueError, match=r"up: expected the shape and dtype of gate, \(2, 3\) .*, got \(2, 4\)"):
        ng.nn.SwiGLU()(torch.ones(2, 3), torch.ones(2, 4))


def test_frozen_parameters_and_inputs_get_no_gradient() -> None:
    norm = ng.nn.LayerNorm(K)
    norm.weight.requires_grad_(False)
    norm(normal(R, K)).sum().backward()
    assert norm.weight.grad is None
    torch.testing.assert_close(norm.bias.grad, torch.full((K,), float(R)))
