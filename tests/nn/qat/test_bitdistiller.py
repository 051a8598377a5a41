"""BitDistiller: NF3, searched ranges, gradients, and the confidence-aware loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge import formats
from narrowgauge.nn.qat import BitDistillerWeight, cakld_loss, teacher_confidence


@pytest.mark.parametrize(("bits", "grid"), [(2, "int"), (3, "int"), (3, "nf")])
def test_forward_and_backward_within_the_searched_range(bits: int, grid: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(4, 64, dtype=torch.float64, generator=generator).requires_grad_()
    g = torch.randn(4, 64, dtype=torch.float64, generator=generator)
    quantizer = BitDistillerWeight(bits, grid, group=32).bind(w.detach())
    low, high = quantizer.low.numpy()[:, :, None], quantizer.high.numpy()[:, :, None]
    a = w.detach().numpy().reshape(4, 2, 32)
    if grid == "int":
        top = 2**bits - 1
        s = (high - low) / top
        z = np.rint(-low / s)
        shifted = np.rint(a / s) + z
        expected, inside = s * (np.clip(shifted, 0, top) - z), (shifted >= 0) & (shifted <= top)
    else:
        s, z = (high - low) / 2, -(high + low) / (high - low)
        levels = formats.get("nf3").values()
        expected = s * (levels[np.abs((a / s + z)[..., None] - levels).argmin(-1)] - z)
        inside = np.abs(a / s + z) <= 1
    y = quantizer(w)
    np.testing.assert_allclose(y.detach().numpy().reshape(a.shape), expected, atol=1e-13)
    y.backward(g)
    assert np.array_equal(w.grad.numpy().reshape(a.shape), g.numpy().reshape(a.shape) * inside)
    assert not inside.all()


def test_the_range_is_searched_once_and_beats_min_max() -> None:
    w = torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
    quantizer = BitDistillerWeight(2).bind(w)
    searched = ((quantizer(w) - w) ** 2).sum().item()
    low = quantizer.low.clone()
    quantizer(w * 2)
    assert torch.equal(quantizer.low, low)
    quantizer.low.copy_(w.amin(1, keepdim=True))
    quantizer.high.copy_(w.amax(1, keepdim=True))
    assert searched < 0.8 * ((quantizer(w) - w) ** 2).sum().item()


def test_importance_weighs_the_inputs() -> None:
    w = torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
    importance = torch.rand(128, generator=torch.Generator().manual_seed(2)) ** 8
    plain, weighted = BitDistillerWeight(2).bind(w), BitDistillerWeight(2)
    weighted.importance = importance
    weighted.bind(w)
    errors = [(((q(w) - w) ** 2) * importance).sum().item() for q in (plain, weighted)]
    assert errors[1] < errors[0]


def test_the_loss_mixes_both_divergences_by_confidence() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    p, q = torch.softmax(student.detach(), -1).numpy(), torch.softmax(teacher, -1).numpy()
    reverse, forward = (p * np.log(p / q)).sum(-1), (q * np.log(q / p)).sum(-1)
    for gamma in (0.0, 0.3, 1.0):
        loss = cakld_loss(student, teacher, gamma)
        assert loss.item() == pytest.approx((gamma * reverse + (1 - gamma) * forward).mean(), rel=1e-5)
    labels = torch.full((3, 5), -100)
    labels[0, :2] = 4
    kept = cakld_loss(student, teacher, 0.3, labels)
    assert kept.item() == pytest.approx((0.3 * reverse + 0.7 * forward)[0, :2].mean(), rel=1e-5)
    assert teacher_confidence(teacher, labels).item() == pytest.approx(q[0, :2, 4].mean(), rel=1e-6)
    kept.backward()
    assert student.grad[0, 0].abs().sum() > 0
    assert student.grad[1].abs().sum() == 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: BitDistillerWeight(4), "bits: got 4, accepted: 2, 3"),
        (lambda: BitDistillerWeight(2, "nf"), "bits: got 2, accepted: 3"),
        (lambda: BitDistillerWeight(2, "fp"), "grid: got 'fp'"),
        (lambda: cakld_loss(torch.zeros(2, 3), torch.zeros(2, 4), 0.5), "expected the student's shape"),
        (lambda: cakld_loss(torch.zeros(2, 3), torch.zeros(2, 3), 1.5), "confidence: got 1.5"),
        (lambda: teacher_confidence(torch.zeros(2, 3), torch.tensor([-100, -100])), "every position"),
    ],
)
def test_wrong_values_are_named(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
