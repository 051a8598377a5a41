"""BitNet: 1-bit and ternary weights, absmax activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.kernels import fake_quantize
from narrowgauge.nn.qat import AbsmaxActivation, BitNet158Weight, BitNetWeight


def weight() -> torch.Tensor:
    return torch.randn(8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.3


def test_one_bit() -> None:
    w = weight().requires_grad_()
    y = BitNetWeight().bind(w)(w)
    a = w.detach().numpy()
    np.testing.assert_allclose(y.detach().numpy(), np.abs(a).mean() * np.where(a - a.mean() >= 0, 1, -1), rtol=1e-14)
    y.sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))


def test_ternary() -> None:
    w = weight().requires_grad_()
    y = BitNet158Weight().bind(w)(w)
    a = w.detach().numpy()
    gamma = np.abs(a).mean()
    np.testing.assert_allclose(y.detach().numpy(), gamma * np.clip(np.rint(a / gamma), -1, 1), rtol=1e-14)
    y.sum().backward()
    assert torch.equal(w.grad, torch.ones_like(w))
    assert BitNet158Weight().codes(torch.zeros(2, 3)).scale.item() == np.float32(1e-5)


def test_ternary_codes_are_minus_one_zero_one() -> None:
    codes = BitNet158Weight().codes(weight()).codes
    assert codes.dtype == torch.int8
    assert codes.unique().tolist() == [-1, 0, 1]


@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_activations_are_the_scheme_where_the_floor_does_not_act(granularity: str) -> None:
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    module = AbsmaxActivation(8, granularity)
    y = module(x)
    assert torch.equal(y, fake_quantize(x, module.input_scheme))
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    tiny = torch.full((1, 4), 3e-6)
    assert torch.equal(module(tiny), (tiny / (1e-5 / 127)).round() * np.float32(1e-5 / 127))
    assert torch.equal(module(torch.zeros(2, 4)), torch.zeros(2, 4))


def test_the_norm_comes_first_and_has_a_gradient() -> None:
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    module = AbsmaxActivation(8, "tensor", norm="layer")
    normed = torch.nn.functional.layer_norm(x, (16,))
    assert torch.equal(module(x), fake_quantize(normed, "int8"))
    assert module.input_scheme is None
    g = torch.randn(4, 16)
    module(x).backward(g)
    (expected,) = torch.autograd.grad(normed, x, g)
    torch.testing.assert_close(x.grad, expected)
    rms = AbsmaxActivation(8, "row", norm="rms")
    assert torch.equal(rms(x), fake_quantize(torch.nn.functional.rms_norm(x, (16,)), "int8/row"))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="activation_bits: got 1"):
        AbsmaxActivation(1)
    with pytest.raises(ValueError, match="granularity: got 'col'"):
        AbsmaxActivation(8, "col")
    with pytest.raises(ValueError, match="norm: got 'batch'"):
        AbsmaxActivation(8, "row", "batch")
