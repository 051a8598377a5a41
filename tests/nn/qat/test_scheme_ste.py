"""Straight-through training over schemes: the package's quantiser forward, identity or clipped backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.formats import quantize_reference
from narrowgauge.nn.qat import SchemeActivation, SchemeWeight

SCHEMES = ["int4/row", "int3/1x16", "e4m3fn/16x16", "mxfp4", "nvfp4", "nf4/1x32", "e2m1fn/1x16:floor", "mx9"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_forward_and_codes_are_the_reference_quantiser(scheme: str) -> None:
    w = torch.randn(24, 96, generator=torch.Generator().manual_seed(0))
    expected = quantize_reference(w.numpy(), scheme).dequantize().astype(np.float32)
    quantizer = SchemeWeight(scheme).bind(w)
    assert np.array_equal(quantizer(w).numpy(), expected)
    assert np.array_equal(SchemeActivation(scheme)(w).numpy(), expected)
    assert torch.equal(quantizer.codes(w).decode(), quantizer(w))


def test_identity_passes_and_clipped_stops_outside_the_range() -> None:
    w = torch.tensor([[-3.0, -0.4, 0.6, 3.0]], requires_grad=True)
    g = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    SchemeWeight("int2:static=1.0").bind(w)(w).backward(g)
    assert torch.equal(w.grad, g)
    w.grad = None
    SchemeWeight("int2:static=1.0", ste="clipped").bind(w)(w).backward(g)
    assert torch.equal(w.grad, torch.tensor([[0.0, 2.0, 3.0, 0.0]]))


def test_border_distance_counts_in_half_steps() -> None:
    quantizer = SchemeWeight("int4:static=0.5")
    distance = quantizer.border_distance(torch.tensor([[0.0, 0.25, 0.3, 1.0]]))
    torch.testing.assert_close(distance, torch.tensor([[1.0, 0.0, 0.2, 1.0]]))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: SchemeWeight("int4/rows"), "weight: "),
        (lambda: SchemeWeight("int16/row"), "16 bits, accepted: at most 8"),
        (lambda: SchemeActivation("int8/row+sr"), "rounds stochastically"),
        (lambda: SchemeWeight("int4/row", ste="none"), "ste: got 'none'"),
    ],
)
def test_other_schemes_are_refused(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
