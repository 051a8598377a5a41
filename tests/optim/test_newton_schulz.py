"""Newton–Schulz: the polynomial acts on singular values, its exact range, torch's bits, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.optim._muon import _zeropower_via_newtonschulz

from narrowgauge.optim.newton_schulz import CONVERGENT, JORDAN, orthogonalize, singular_value_range
from optimizer_steps import gaussian


def polynomial(s: Any, steps: int, coefficients: tuple[float, float, float]) -> Any:
    a, b, c = coefficients
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return s


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (17, 17), (1, 9), (9, 1)])
def test_the_result_is_the_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    x = gaussian(*shape)
    u, s, vt = torch.linalg.svd(x.double(), full_matrices=False)
    expected = u @ torch.diag(polynomial(s / s.norm(), 5, JORDAN)) @ vt
    torch.testing.assert_close(orthogonalize(x, dtype=torch.float32).double(), expected, rtol=0, atol=2e-5)
    # bfloat16 has 8 bits; five steps of slope up to 3.4 amplify what is small, not what is near one.
    assert (orthogonalize(x).double() - expected).norm() < 0.06 * expected.norm()


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (65, 65)])
def test_bfloat16_gives_torchs_bits(shape: tuple[int, int]) -> None:
    x = gaussian(*shape, seed=3)
    assert torch.equal(orthogonalize(x), _zeropower_via_newtonschulz(x, JORDAN, 5, 1e-7))


def test_the_convergent_coefficients_reach_the_polar_factor() -> None:
    x = gaussian(20, 30)
    u, _, vt = torch.linalg.svd(x.double(), full_matrices=False)
    y = orthogonalize(x, steps=14, coefficients=CONVERGENT, dtype=torch.float32)
    torch.testing.assert_close(y.double(), u @ vt, rtol=0, atol=2e-6)


@pytest.mark.parametrize("coefficients", [JORDAN, CONVERGENT, (1.5, -0.5, 0.0), (2.0, -1.5, 0.5)])
@pytest.mark.parametrize("steps", [1, 2, 5, 9])
@pytest.mark.parametrize("smallest", [0.0, 1e-3, 0.05, 1.0])
def test_the_range_is_attained_and_never_left(
    coefficients: tuple[float, float, float], steps: int, smallest: float
) -> None:
    low, high = singular_value_range(smallest, steps, coefficients)
    # Nine steps stretch what is near zero 68,000 times: points as dense there as elsewhere, relatively.
    dense = np.geomspace(max(smallest, 1e-7), 1.0, 200_001)
    values = polynomial(np.concatenate(([smallest, 1.0], dense)), steps, coefficients)
    assert low - 1e-12 <= values.min() <= low + 1e-4
    assert high - 1e-4 <= values.max() <= high + 1e-12


def test_muons_five_steps_end_between_0_68_and_1_14() -> None:
    low, high = singular_value_range(0.02)
    assert 0.68 < low < 0.69
    assert 1.12 < high < 1.14


def test_batches_are_matrices_one_by_one() -> None:
    x = gaussian(2, 3, 8, 5)
    y = orthogonalize(x)
    for i in range(2):
        for j in range(3):
            assert torch.equal(y[i, j], orthogonalize(x[i, j]))
    assert orthogonalize(x[:0]).shape == (0, 3, 8, 5)


def test_zeros_stay_zero_and_the_scale_does_not_matter() -> None:
    assert not orthogonalize(torch.zeros(4, 6)).any()
    x = gaussian(8, 8)
    assert torch.equal(orthogonalize(x * 2.0**-6, eps=1e-30), orthogonalize(x * 2.0**40))


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": 0}, "ns_steps: got 0"), ({"steps": 100}, "ns_steps: got 100"), ({"steps": 2.5}, "ns_steps: got 2.5"),
    ({"coefficients": (1.0, 2.0)}, "ns_coefficients: expected three"), ({"eps": 0.0}, "eps: got 0.0"),
])  # fmt: skip
def test_what_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        orthogonalize(gaussian(3, 3), **options)
    with pytest.raises(ValueError, match="expected matrices"):
        orthogonalize(gaussian(3))
    with pytest.raises(ValueError, match="smallest: got 2"):
        singular_value_range(2.0)
