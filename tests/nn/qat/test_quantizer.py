"""WeightQuantizer and WeightCodes: what all methods share."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.nn.qat import EfficientQATWeight, LSQWeight, WeightCodes


def test_codes_decode_by_tile_with_zero_point() -> None:
    codes = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]], dtype=torch.uint8)
    scale = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    zero = torch.tensor([[1.0, 0.0], [0.5, 3.0]])
    decoded = WeightCodes(codes, scale, "uint2/1x2", zero).decode()
    assert decoded.tolist() == [[-1.0, 0.0, 4.0, 6.0], [7.5, 4.5, -8.0, -12.0]]
    ragged = WeightCodes(codes.to(torch.int8), torch.tensor([[1.0, 10.0]]), "int4/4x3").decode()
    assert ragged.tolist() == [[0.0, 1.0, 2.0, 30.0], [3.0, 2.0, 1.0, 0.0]]


def test_weights_have_two_floating_axes() -> None:
    with pytest.raises(ValueError, match=r"expected 2 axes, got shape \(2, 3, 4\)"):
        LSQWeight().bind(torch.zeros(2, 3, 4))
    with pytest.raises(TypeError, match=r"expected a floating dtype, got torch\.int64"):
        LSQWeight().bind(torch.zeros(2, 3, dtype=torch.int64))


def test_learned_values_are_state_and_are_reset_in_place() -> None:
    w = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    quantizer = EfficientQATWeight(2, group=8).bind(w)
    assert set(quantizer.state_dict()) == {"scale", "zero"}
    scale, before = quantizer.scale, quantizer.scale.detach().clone()
    quantizer.reset_(2 * w)
    assert quantizer.scale is scale
    torch.testing.assert_close(scale.detach(), 2 * before)
