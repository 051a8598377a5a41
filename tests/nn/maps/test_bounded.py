"""Bounded maps: values and gradients by hand."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.nn.maps import parse_map


def test_tanh_is_scaled_to_one_with_its_own_gradient() -> None:
    w = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    y = parse_map("tanh")(w)
    g = torch.randn(7, 5, dtype=torch.float64)
    y.backward(g)
    bounded = torch.tanh(w.detach())
    top, largest = bounded.abs().max(), bounded.abs() == bounded.abs().max()
    torch.testing.assert_close(y.detach(), bounded / top)
    # All weights move the maximum's owner, through the quotient.
    of_bounded = g / top - largest * bounded.sign() * (g * bounded).sum() / top**2
    torch.testing.assert_close(w.grad, of_bounded * (1 - bounded.square()))
    assert torch.equal(parse_map("tanh")(torch.zeros(3)), torch.zeros(3))


def test_clip_cuts_values_and_gradients() -> None:
    x = torch.tensor([-3.0, -2.0, 0.5, 2.5], requires_grad=True)
    y = parse_map("clip2")(x)
    y.sum().backward()
    assert y.tolist() == [-2.0, -2.0, 0.5, 2.0]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("text", "message"), [
    ("clip", "not clip and a number"), ("clip-1", "not clip and a number"), ("tan", "unknown 'tan'; accepted: tanh"),
])  # fmt: skip
def test_texts_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_map(text)
