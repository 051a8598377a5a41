"""Block-AP and E2E-QP."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.nn.qat import block_ap, e2e_qp, full_precision, prepare_qat, qat, quantizer_parameters


def block_and_inputs() -> tuple[nn.Module, list[torch.Tensor]]:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
    prepare_qat(block, qat("efficientqat", bits=2, group=16))
    return block, [torch.randn(32, 32) for _ in range(8)]


def test_full_precision_is_inside_only() -> None:
    block, (x, *_) = block_and_inputs()
    quantised = block(x)
    with full_precision(block):
        plain = block(x)
        assert torch.equal(plain, block[2].forward(torch.nn.functional.gelu(block[0].forward(x))))
        assert not torch.equal(plain, quantised)
    assert torch.equal(block(x), quantised)


def test_block_ap_halves_the_error_against_the_blocks_own_output() -> None:
    block, inputs = block_and_inputs()
    with full_precision(block), torch.no_grad():
        targets = [block(x) for x in inputs]
    before = [p.detach().clone() for p in quantizer_parameters(block)]
    errors = block_ap(block, inputs, epochs=15, lr=2e-3, quantizer_lr=2e-3)
    after = sum(((block(x) - y) ** 2).mean().item() for x, y in zip(inputs, targets, strict=True)) / 8
    assert len(errors) == 16
    assert after < 0.5 * errors[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, quantizer_parameters(block), strict=True))


def test_e2e_qp_trains_scales_alone() -> None:
    block, (x, *_) = block_and_inputs()
    scales = e2e_qp(block)
    assert [p for p in block.parameters() if p.requires_grad] == scales
    codes = [layer.weight_quantizer.codes(layer.weight).codes for layer in (block[0], block[2])]
    target = torch.randn(32, 32)
    optimizer = torch.optim.Adam(scales, 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(block(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for layer, before in zip((block[0], block[2]), codes, strict=True):
        assert torch.equal(layer.weight_quantizer.codes(layer.weight).codes, before)


def test_wrong_calls_are_named() -> None:
    block, inputs = block_and_inputs()
    with pytest.raises(ValueError, match="inputs: got none"):
        block_ap(block, [])
    with pytest.raises(ValueError, match="lr: got 0"):
        block_ap(block, inputs, lr=0)
    with pytest.raises(ValueError, match="0 is under 'lsq', accepted: efficientqat"):
        e2e_qp(prepare_qat(nn.Sequential(nn.Linear(4, 4)), "lsq"))
