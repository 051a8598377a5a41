"""LSQ and LSQ+: forward, the analytic gradients of value, step and offset, and how they begin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsq_formulas import lsq_reference
from narrowgauge.kernels import fake_quantize
from narrowgauge.nn.qat import LSQActivation, LSQPlusActivation, LSQWeight


@pytest.mark.parametrize(
    ("granularity", "shape", "count"), [("tensor", (1, 1), 96), ("row", (4, 1), 24), (8, (4, 3), 8)]
)
def test_weights_have_a_step_per_tile_with_the_papers_factor(granularity, shape, count) -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(4, 24, dtype=torch.float64, generator=generator).requires_grad_()
    g = torch.randn(4, 24, dtype=torch.float64, generator=generator)
    quantizer = LSQWeight(3, granularity).bind(w.detach())
    assert tuple(quantizer.step.shape) == shape
    tiles = w.detach().numpy().reshape(*shape, count)
    np.testing.assert_allclose(quantizer.step.detach().numpy(), 2 * np.abs(tiles).mean(2) / np.sqrt(3), rtol=1e-12)
    y = quantizer(w)
    s = quantizer.step.detach().numpy()[:, :, None]
    values, of_v, of_s, _ = lsq_reference(tiles, s, -4, 3)
    np.testing.assert_allclose(y.detach().numpy().reshape(tiles.shape), values, atol=1e-14)
    y.backward(g)
    upstream = g.numpy().reshape(tiles.shape)
    np.testing.assert_allclose(w.grad.numpy().reshape(tiles.shape), upstream * of_v, atol=1e-15)
    expected = (upstream * of_s).sum(2) / np.sqrt(count * 3)
    np.testing.assert_allclose(quantizer.step.grad.numpy(), expected, rtol=1e-10)


def test_lsq_plus_begins_at_three_deviations() -> None:
    w = torch.randn(8, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.2
    quantizer = LSQWeight(4, init="lsq_plus").bind(w)
    mean, deviation = w.numpy().mean(), w.numpy().std()
    expected = max(abs(mean - 3 * deviation), abs(mean + 3 * deviation)) / 8
    np.testing.assert_allclose(quantizer.step.item(), expected, rtol=1e-12)


def test_activations_begin_from_the_first_batch_and_keep_the_step() -> None:
    module = LSQActivation(bits=4)
    with pytest.raises(RuntimeError, match="no value yet"):
        module.eval()(torch.ones(2, 3))
    module.train()
    x = torch.randn(16, 12, generator=torch.Generator().manual_seed(0))
    y = module(x)
    np.testing.assert_allclose(module.step.item(), 2 * x.abs().mean().item() / np.sqrt(7), rtol=1e-6)
    assert torch.equal(y, fake_quantize(x, module.input_scheme))
    before = module.step.item()
    loaded = LSQActivation(bits=4).eval()
    loaded.load_state_dict(module.state_dict())
    assert torch.equal(loaded(x), y)
    module(x * 10)
    assert module.step.item() == before
    y.sum().backward()
    inside = (x / before > -8) & (x / before < 7)
    slope = torch.where(inside, (x / before).round() - x / before, (x / before).clamp(-8, 7))
    np.testing.assert_allclose(module.step.grad.item(), slope.sum().item() / np.sqrt(12 * 7), rtol=1e-4)


def test_unsigned_activations_use_all_codes_above_zero() -> None:
    module = LSQActivation(bits=2, signed=False)
    x = torch.linspace(-1, 1, 50).reshape(5, 10) ** 7 * 5
    y = module(x)
    assert y.min() == 0
    assert len(y.unique()) == 4
    assert torch.equal(y, fake_quantize(x, module.input_scheme))


def test_lsq_plus_activations_beat_a_symmetric_range_on_skewed_values() -> None:
    x = torch.nn.functional.gelu(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 2)
    plus, plain = LSQPlusActivation(bits=4), LSQActivation(bits=4)
    error = [((module(x) - x) ** 2).mean().item() for module in (plus, plain)]
    assert error[0] < 0.5 * error[1]
    plus(x).sum().backward()
    assert plus.offset.grad is not None
    assert plus.step.grad is not None


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: LSQWeight(1), "bits: got 1, accepted: 2, 3"),
        (lambda: LSQWeight(4, "column"), "granularity: got 'column'"),
        (lambda: LSQWeight(4, init="max"), "init: got 'max'"),
        (lambda: LSQActivation(9), "activation_bits: got 9"),
        (lambda: LSQActivation(4, signed=1), "signed: got 1"),
        (lambda: LSQPlusActivation(1), "activation_bits: got 1"),
    ],
)
def test_settings_are_checked(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
