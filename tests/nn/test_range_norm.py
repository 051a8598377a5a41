"""Range batch normalisation: close to batch normalisation on normal values, and steady under 8-bit inputs."""

from __future__ import annotations

from math import log, sqrt

import pytest
import torch
from torch import nn

from narrowgauge.kernels.tensor import fake_quantize
from narrowgauge.nn.range_norm import RangeBatchNorm


def test_formula() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    norm = RangeBatchNorm(3, eps=0.0)
    sigma = (x.amax(0) - x.amin(0)) / (2 * sqrt(2 * log(50)))
    torch.testing.assert_close(norm(x), (x - x.mean(0)) / sigma)


@pytest.mark.parametrize("count", [64, 1024, 16384])
def test_normal_values_get_nearly_their_deviation(count: int) -> None:
    torch.manual_seed(0)
    y = RangeBatchNorm(32)(3.0 + 5.0 * torch.randn(count, 32)).detach()
    assert float(y.std(0).mean()) == pytest.approx(1.0, abs=0.25)
    assert float(y.mean()) == pytest.approx(0.0, abs=1e-4)


def test_axes_and_dtype_are_those_of_batch_norm() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 5, 4, dtype=torch.bfloat16)
    norm = RangeBatchNorm(3)
    y = norm(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    flat = norm(x.movedim(1, -1).reshape(-1, 3)).reshape(8, 5, 4, 3).movedim(-1, 1)
    torch.testing.assert_close(y, flat)


def test_evaluation_uses_what_was_seen() -> None:
    torch.manual_seed(0)
    norm = RangeBatchNorm(2, momentum=1.0)
    x = torch.randn(100, 2) * 4.0 + 1.0
    seen = norm(x)
    torch.testing.assert_close(norm.eval()(x), seen)


def test_gradients_reach_input_and_parameters() -> None:
    torch.manual_seed(0)
    norm = RangeBatchNorm(2).double()
    x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    norm(x).square().sum().backward()
    assert x.grad is not None
    assert norm.weight is not None
    assert norm.weight.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_quantised_inputs_change_little() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 16)
    fine, coarse = (RangeBatchNorm(16)(v).detach() for v in (x, fake_quantize(x, "int8")))
    batch = nn.BatchNorm1d(16)(x).detach()
    assert float((fine - coarse).norm() / fine.norm()) < 0.012
    assert float(torch.cosine_similarity(fine.flatten(), batch.flatten(), dim=0)) > 0.99


def test_what_cannot_be_normalised_is_refused() -> None:
    norm = RangeBatchNorm(3)
    for x, word in ((torch.ones(3), "expected"), (torch.ones(2, 4), "expected"), (torch.ones(1, 3), "two or more")):
        with pytest.raises(ValueError, match=word):
            norm(x)
