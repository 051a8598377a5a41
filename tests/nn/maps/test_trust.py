"""Quartet's rotation with a trust mask."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.formats import parse
from narrowgauge.nn.maps import parse_map
from narrowgauge.nn.maps.trust import Trust, rotate_columns
from narrowgauge.nn.stages.scales import rms_scales

CLIP = 2.92247856


@pytest.mark.parametrize("columns", [1, 3, 32, 40, 72, 95, 128])
def test_the_rotation_is_orthonormal_whatever_the_columns(columns: int) -> None:
    x = torch.randn(8, columns)
    turned = rotate_columns(x)
    assert turned.shape == x.shape
    torch.testing.assert_close(rotate_columns(turned), x, atol=1e-5, rtol=1e-5)
    w = torch.randn(6, columns)
    torch.testing.assert_close(rotate_columns(x) @ rotate_columns(w).T, x @ w.T, atol=1e-4, rtol=1e-4)


def test_the_gradient_is_masked_in_the_rotated_basis() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 96)
    x[:, 5] *= 20.0
    leaf, g = x.clone().requires_grad_(), torch.randn(64, 96)
    chosen = Trust(CLIP)
    turned = chosen(leaf)
    turned.backward(g)
    scheme = parse("e2m1fn/1x32:static=1.0")
    mask = turned.detach().abs() < 6.0 * rms_scales(chosen.stage, turned.detach(), scheme)
    assert 0 < int((~mask).sum()) < 0.2 * mask.numel()
    torch.testing.assert_close(leaf.grad, rotate_columns(g * mask))
    assert not torch.allclose(leaf.grad, rotate_columns(g))


def test_dtypes_and_texts() -> None:
    x = torch.randn(4, 40, dtype=torch.bfloat16).requires_grad_()
    y = parse_map("trust2.92247856")(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert Trust(CLIP)(torch.zeros(0, 40)).shape == (0, 40)
    for text in ("trust", "trust0", "trustx"):
        with pytest.raises(ValueError, match=r"map: .* is not trust"):
            parse_map(text)
