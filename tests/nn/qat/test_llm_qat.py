"""LLM-QAT: symmetric min-max per channel and per token, and the KV quantiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge.nn.qat import LLMQATActivation, LLMQATWeight, prepare_qat, qat, quantize_kv, quantize_kv_outputs


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj"):
            self.add_module(name, nn.Linear(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.q_proj(x) @ self.k_proj(x).mT, -1) @ self.v_proj(x)


def closed_form(x: torch.Tensor, bits: int) -> np.ndarray:
    a = x.double().numpy()
    top = 2 ** (bits - 1) - 1
    scale = np.abs(a).max(-1, keepdims=True) / top
    return np.rint(a / scale) * scale


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_are_the_closed_form_and_the_gradient_is_the_identity(bits: int) -> None:
    x = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for y in (LLMQATActivation(bits)(x), quantize_kv(x, bits)):
        np.testing.assert_allclose(y.detach().numpy(), closed_form(x.detach(), bits), atol=1e-6)
        x.grad = None
        y.sum().backward()
        assert torch.equal(x.grad, torch.ones_like(x))
    w = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(LLMQATWeight(bits).bind(w)(w).numpy(), closed_form(w, bits), atol=1e-6)


def test_keys_and_values_are_quantised_where_they_enter_the_cache() -> None:
    torch.manual_seed(0)
    model = prepare_qat(nn.ModuleDict({"attention": Attention()}), qat("llm_qat", kv_bits=4))["attention"]
    assert model.q_proj.output_quantizer is None
    x = torch.randn(2, 5, 16)
    for layer in (model.k_proj, model.v_proj):
        y = layer(x)
        assert torch.equal(y, quantize_kv(y.detach(), 4))
        assert max(len(row.unique()) for row in y.detach().reshape(-1, 16)) <= 15


def test_hooks_do_the_same_for_plain_models() -> None:
    model = Attention()
    x = torch.randn(2, 5, 16)
    plain = model.k_proj(x)
    handles = quantize_kv_outputs(model, bits=3)
    assert torch.equal(model.k_proj(x), quantize_kv(plain, 3))
    for handle in handles:
        handle.remove()
    assert torch.equal(model.k_proj(x), plain)
    with pytest.raises(ValueError, match="no module is called k_proj, v_proj"):
        quantize_kv_outputs(nn.ReLU())


def test_bits_are_checked() -> None:
    for call in (LLMQATWeight, LLMQATActivation, lambda bits: quantize_kv(torch.zeros(1, 2), bits)):
        with pytest.raises(ValueError, match="bits: got 1"):
            call(1)
