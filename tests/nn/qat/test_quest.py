"""QuEST: clipping constants, mid-rise levels, trust mask and the transform of the gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from narrowgauge.nn.qat import QuestActivation, QuestWeight, hadamard, quest_trust
from narrowgauge.nn.qat.quest import CLIPPING, level_count


def reference(x: np.ndarray, bits: float) -> tuple[np.ndarray, np.ndarray]:
    """(values, mask) of rotated rows in float64: the nearest of L even levels from −α to α."""
    alpha = CLIPPING[bits] * np.sqrt((x**2).mean(-1, keepdims=True))
    levels = np.linspace(-1, 1, level_count(bits))
    nearest = np.abs(x[..., None] / alpha[..., None] - levels).argmin(-1)
    values = levels[nearest] * alpha
    return values, np.abs(values - x) <= alpha / (level_count(bits) - 1)


@pytest.mark.parametrize("bits", [1, 1.58, 2, 4])
def test_clipping_constants_minimise_the_error_of_a_gaussian(bits: float) -> None:
    def error(c: float) -> float:
        levels = np.linspace(-c, c, level_count(bits))
        edges = [-8.0, *(0.5 * (levels[1:] + levels[:-1])), 8.0]
        parts = [
            integrate.quad(lambda x, v=v: (x - v) ** 2 * stats.norm.pdf(x), a, b)[0]
            for v, a, b in zip(levels, edges, edges[1:], strict=False)
        ]
        return sum(parts)

    best = optimize.minimize_scalar(error, bounds=(0.3, 5), method="bounded", options={"xatol": 1e-5}).x
    assert best == pytest.approx(CLIPPING[bits], abs=1e-3)


@pytest.mark.parametrize("bits", list(CLIPPING))
def test_weights_forward_and_backward(bits: float) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(5, 64, dtype=torch.float64, generator=generator)
    w[0] += 3.0  # which the rotation gathers in one outlier per block
    w.requires_grad_()
    g = torch.randn(5, 64, dtype=torch.float64, generator=generator)
    quantizer = QuestWeight(bits, rotate=32).bind(w)
    y = quantizer(w)
    rotated = hadamard(w.detach(), 32)
    values, mask = reference(rotated.numpy(), bits)
    np.testing.assert_allclose(y.detach().numpy(), values, atol=1e-13)
    y.backward(g)
    torch.testing.assert_close(w.grad, hadamard(g * torch.from_numpy(mask), 32), rtol=0, atol=1e-12)
    assert not mask.all()


@pytest.mark.parametrize("bits", [1, 1.58, 3])
def test_activations_forward_and_backward(bits: float) -> None:
    x = torch.randn(2, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = QuestActivation(bits)(x)
    values, mask = reference(x.detach().numpy(), bits)
    np.testing.assert_allclose(y.detach().numpy(), values, atol=1e-13)
    y.sum().backward()
    assert np.array_equal(x.grad.numpy(), mask.astype(float))


def test_no_level_is_zero_but_rows_of_zeros_are_nearly() -> None:
    x = torch.randn(4, 32)
    assert (quest_trust(x, 2) != 0).all()
    assert quest_trust(torch.zeros(2, 8), 2).abs().max() < 1e-25


def test_the_block_is_the_largest_that_divides() -> None:
    assert [QuestWeight().bind(torch.ones(2, n)).rotate for n in (768, 96, 7)] == [128, 32, 0]
    with pytest.raises(ValueError, match="rotate: got 128"):
        QuestWeight(4, rotate=128).bind(torch.ones(2, 96))
    for bits in (9, 1.5, True):
        with pytest.raises(ValueError, match="bits: got"):
            QuestWeight(bits)
