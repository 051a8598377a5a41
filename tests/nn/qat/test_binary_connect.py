"""BinaryConnect: signs, probabilities, identity gradient, clipped weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.nn.qat import BinaryConnectWeight


def test_sign_with_plus_one_at_zero_and_identity_gradient() -> None:
    w = torch.tensor([[-2.0, -0.0, 0.0, 0.3]], requires_grad=True)
    g = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    y = BinaryConnectWeight().bind(w)(w)
    assert y.tolist() == [[-1.0, 1.0, 1.0, 1.0]]
    y.backward(g)
    assert torch.equal(w.grad, g)


def test_stochastic_signs_have_the_hard_sigmoid_as_probability() -> None:
    w = torch.tensor([[-1.5, -1.0, -0.5, 0.0, 0.8, 1.0]]).repeat(20_000, 1)
    quantizer = BinaryConnectWeight(stochastic=True, seed=3).bind(w)
    y = quantizer(w)
    assert set(y.unique().tolist()) == {-1.0, 1.0}
    share = (y > 0).double().mean(0).numpy()
    expected = np.array([0.0, 0.0, 0.25, 0.5, 0.9, 1.0])
    assert (np.abs(share - expected) <= 6 * np.sqrt(expected * (1 - expected) / 20_000)).all()
    assert not torch.equal(quantizer(w), y)
    again = BinaryConnectWeight(stochastic=True, seed=3).bind(w)
    assert torch.equal(again(w), y)
    quantizer.eval()
    assert torch.equal(quantizer(w), torch.where(w >= 0, 1.0, -1.0))


def test_weights_are_clipped_after_a_step() -> None:
    w = torch.tensor([[-3.0, 0.5, 2.0]])
    BinaryConnectWeight().bind(w).after_step_(w)
    assert w.tolist() == [[-1.0, 0.5, 1.0]]


def test_stochastic_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="stochastic: got 'yes'"):
        BinaryConnectWeight("yes")
