"""The rate, its gradient and the update, against the published formulas and vectors computed from them."""

import math

import pytest
import torch

from narrowgauge.priors import fit, shape_from_ratio
from narrowgauge.priors.penalty import rate, subtract_rate_gradient_, sums

THETA = [0.5, -0.25, 0.0, 1.0, -0.03125, 0.125, -2.0, 0.0625]
AFTER = {
    1.0: [0.499322207, -0.249274907, 0, 0.999390646, -0.030471415, 0.124246082, -1.999475536, 0.061729968],
    1e-3: [0.498983024, -0.248686678, 0, 0.999212791, -0.028443955, 0.123305219, -1.999390759, 0.060316143],
}


@pytest.mark.parametrize("eps", AFTER)
def test_the_unit_vectors(eps: float) -> None:
    theta = torch.tensor(THETA, dtype=torch.float64)
    first, second = (float(part) for part in sums([theta]))
    assert 8 * second / first**2 == pytest.approx(2.7086614, abs=5e-8)
    shape = shape_from_ratio(8 * second / first**2, table=True)
    assert shape == 0.63
    subtract_rate_gradient_([theta], [theta], [shape], 0.01 / 8, eps)
    assert theta.tolist() == pytest.approx(AFTER[eps], abs=5e-10)


def test_the_rate_of_the_unit_vector() -> None:
    # The vector was made with ν in float32, which is 5e-9 below 0.63.
    assert rate([torch.tensor(THETA)], [float(torch.tensor(0.63))], 1e-3) == pytest.approx(0.523665596, abs=5e-10)
    assert rate([torch.tensor(THETA)], [0.63], 1e-3) == pytest.approx(0.523665596, abs=2e-9)


@pytest.mark.parametrize("eps", [1.0, 1e-2])
@pytest.mark.parametrize("shape", [0.3, 1.0, 1.36, 2.0])
def test_the_gradient_is_the_derivative_of_the_rate(shape: float, eps: float) -> None:
    x = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ((x.abs() + eps).pow(shape).sum() / 50).backward()
    found = torch.zeros(50, dtype=torch.float64)
    subtract_rate_gradient_([found], [x], [shape], -1 / 50, eps)
    assert torch.allclose(found, x.grad, rtol=1e-12)


def test_special_cases_are_l1_and_l2() -> None:
    x = torch.tensor([3.0, -0.5, 0.0])
    one, two = torch.zeros(3), torch.zeros(3)
    subtract_rate_gradient_([one], [x], [1.0], -1.0, 0.0)
    subtract_rate_gradient_([two], [x], [2.0], -1.0, 0.0)
    assert one.tolist() == [1.0, -1.0, 0.0]
    assert two.tolist() == [6.0, -1.0, 0.0]


@pytest.mark.parametrize("eps", [0.0, 1e-3, 1.0])
def test_exact_zeros_stay(eps: float) -> None:
    x = torch.tensor([0.0, -0.0, 1.0])
    subtract_rate_gradient_([x], [x], [0.3], 0.01, eps)
    assert x[0] == 0
    assert x[1] == 0
    assert 0 < x[2] < 1


def test_tensors_are_cut_and_joined_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(1)
    params = [torch.randn(size, generator=g) for size in [(7, 30), (1,), (0, 3), (100, 11), (5,)]]
    params.append(torch.randn(20, 40, generator=g).T)
    shapes = [0.3, 1.0, 1.5, 2.0, 2.5, 0.7]
    whole = [p.clone() for p in params]
    subtract_rate_gradient_(whole, whole, shapes, 0.1)
    monkeypatch.setattr("narrowgauge.priors.penalty._CPU_PIECE", 64)
    cut = [p.clone() for p in params]
    subtract_rate_gradient_(cut, cut, shapes, 0.1)
    for a, b, p, shape in zip(whole, cut, params, shapes, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=0)
        expected = p - 0.1 * shape * p.sign() * (p.abs() + 1.0) ** (shape - 1)
        assert torch.allclose(a, expected, rtol=1e-6, atol=1e-8)


def test_narrow_gradients_take_a_power_of_float32() -> None:
    x = torch.linspace(-1, 1, 101).bfloat16()
    grad = torch.zeros_like(x)
    subtract_rate_gradient_([grad], [x], [0.5], -1.0, 1e-3)
    expected = 0.5 * x.float().sign() * (x.float().abs() + 1e-3) ** -0.5
    assert torch.equal(grad, expected.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_sums_are_those_of_float64(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(2)
    params = [torch.randn(1000, 3, generator=g).to(dtype), torch.zeros(4, dtype=dtype), torch.randn(7).to(dtype)]
    first, second = sums(params)
    assert first.dtype == second.dtype == torch.float64
    for i, p in enumerate(params):
        assert float(first[i]) == pytest.approx(float(p.double().abs().sum()), rel=1e-12)
        assert float(second[i]) == pytest.approx(float(p.double().square().sum()), rel=1e-12)


def test_long_float32_sums_do_not_lose_their_tail() -> None:
    """In float32 more and more of such a sum is lost: 8 % of this one, a third of 10^8 weights."""
    x = torch.full((30_000_000,), 0.04)
    first, second = (float(part) for part in sums([x]))
    assert first == pytest.approx(30_000_000 * float(x[0]), rel=1e-9)
    assert second == pytest.approx(30_000_000 * float(x[0]) ** 2, rel=1e-9)


def test_the_pooled_shape_is_the_one_of_fit() -> None:
    g = torch.Generator().manual_seed(3)
    params = [torch.randn(100, generator=g), torch.rand(50, generator=g)]
    first, second = (float(part.sum()) for part in sums(params))
    assert shape_from_ratio(150 * second / first**2) == pytest.approx(fit(torch.cat(params)).shape, rel=1e-12)
    assert math.isfinite(first)
