"""nn.TransformerEncoder: what it computes in eval is what it was trained with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.nn import QuantLinear


def encoder(layers: int = 2, **options: object) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    settings = {"batch_first": True, "dropout": 0.0, "activation": "gelu", **options}
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, **settings), layers)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, 16, generator=generator)
    return x, torch.arange(5).expand(3, 5) >= torch.tensor([[5], [3], [2]])


def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    fused = torch._transformer_encoder_layer_fwd

    def counted(*args: object) -> torch.Tensor:
        calls.append("fused")
        return fused(*args)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    return calls


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("masked", [False, True])
def test_eval_without_gradients_equals_training_mode(monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    calls, (x, padding) = fused_calls(monkeypatch), inputs()
    mask = padding if masked else None
    model = encoder().eval()
    with torch.no_grad():
        plain = model(x, src_key_padding_mask=mask)
    assert len(calls) == 2  # the path is there
    ng.convert(model, "fp8_row")
    with torch.no_grad():
        evaluated = model(x, src_key_padding_mask=mask)
    trained = model.train()(x, src_key_padding_mask=mask).detach()
    kept = ~padding if masked else slice(None)
    assert len(calls) == 2
    assert evaluated.shape == x.shape
    # nn.MultiheadAttention, which is not quantised, has a fused path of its own with other last bits.
    torch.testing.assert_close(evaluated[kept], trained[kept], rtol=0.02, atol=0.02)
    difference = (evaluated[kept] - plain[kept]).abs().max()
    assert difference > 1e-3  # and it is not what plain layers compute


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_revert_opens_the_path_again_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, (x, padding) = fused_calls(monkeypatch), inputs()
    model = encoder().eval()
    before = [dict(module.__dict__) for module in model.modules()]
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=padding)
        ng.revert(ng.convert(ng.convert(model, "fp8_row"), "mxfp8"))
        assert torch.equal(model(x, src_key_padding_mask=padding), expected)
    assert len(calls) == 4
    assert [module.__dict__ for module in model.modules()] == before


def test_only_layers_with_quantised_parts_leave_the_path() -> None:
    model = ng.convert(encoder(3, activation="relu"), keep_first=1)
    assert [layer.activation_relu_or_gelu for layer in model.layers] == [1, 0, 0]
    assert model.use_nested_tensor is False
    assert isinstance(model.layers[1].linear2, QuantLinear)
    reasons = {row.name: row.reason for row in ng.explain(model).rows if not row.gemms}
    assert "never calls it" in reasons["layers.2.self_attn.out_proj"]
    assert "multiplies by this parameter itself" in reasons["layers.2.self_attn.in_proj_weight"]
    assert "keep_first" in reasons["layers.0.linear1"]


def test_an_encoder_trains_and_its_gradients_point_where_those_of_float32_do() -> None:
    x, padding = inputs()
    plain, model = encoder(), ng.convert(encoder(), "fp8_row")
    for each in (plain, model):
        each(x, src_key_padding_mask=padding).square().mean(dim=(1, 2)).sum().backward()
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert nn.functional.cosine_similarity(p.grad.flatten(), q.grad.flatten(), dim=0) > 0.9, name


def test_codes_keep_the_fused_path_closed_when_something_else_is_converted() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval()
    model = nn.Sequential(layer, nn.Linear(16, 16))
    ng.nn.quantize_for_inference(layer, "int8/row")
    ng.convert(model, "fp8_row", filter_fn=lambda _, name: name == "1")
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        looked = layer(x)
        layer.train()
        assert torch.allclose(looked, layer(x), atol=1e-5)


def test_plain_layers_open_the_fused_path_again() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    before = layer.activation_relu_or_gelu
    for change, back in ((ng.nn.prepare_qat, ng.nn.revert_qat), (ng.nn.add_lora, ng.nn.merge_lora)):
        change(layer, **({"config": "ste"} if change is ng.nn.prepare_qat else {}))
        assert layer.activation_relu_or_gelu == 0
        back(layer)
        assert layer.activation_relu_or_gelu == before
