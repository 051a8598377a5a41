"""quantize_for_inference on models: what is replaced, what is left alone, and that outputs stay close."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.nn.inference import InferenceEmbedding, InferenceLinear, quantize_for_inference
from shared_layers import SharedLayers


def small(tied: bool = False) -> SharedLayers:
    return SharedLayers(tied=tied, seed=0)


IDS = torch.arange(12).reshape(2, 6)


@pytest.mark.parametrize("options", [{}, {"input": "int8/row"}, {"embedding": "int8/row"}, {"skip": ()}])
def test_outputs_stay_close_and_layers_are_replaced(options: dict[str, object]) -> None:
    model = small().eval()
    expected = model(IDS)
    assert quantize_for_inference(model, "int8/row", **options) is model
    assert isinstance(model.block["up"], InferenceLinear)
    assert model.again is model.block["up"]
    assert isinstance(model.lm_head, InferenceLinear) == ("skip" in options)
    assert isinstance(model.embed, InferenceEmbedding) == ("embedding" in options)
    assert not model.block["up"].training
    assert (model(IDS) - expected).abs().max() < 0.05 * expected.abs().max()


def test_recipes_forward_pass_is_kept_bit_for_bit() -> None:
    model = ng.convert(small(), "fp8_row").eval()
    expected = model(IDS)
    quantize_for_inference(model, None)
    assert isinstance(model.block["up"], InferenceLinear)
    assert torch.equal(model(IDS), expected)


def test_tied_weights_are_left_alone_with_a_reason() -> None:
    model = quantize_for_inference(small(tied=True), skip=(), embedding="int8/row")
    assert type(model.lm_head) is nn.Linear
    assert type(model.embed) is nn.Embedding
    assert model.lm_head.weight is model.embed.weight
    assert model.lm_head._left_alone == "tied: embed and lm_head share one weight"


def test_filter_and_skip_choose() -> None:
    model = quantize_for_inference(small(), filter_fn=lambda module, name: module.out_features == 24)
    assert isinstance(model.block["up"], InferenceLinear)
    assert type(model.block["down"]) is nn.Linear
    model = quantize_for_inference(small(), skip=("block.*",))
    assert type(model.block["down"]) is nn.Linear
    assert isinstance(model.lm_head, InferenceLinear)


def test_hooks_move_along_and_can_still_be_removed() -> None:
    model = small()
    calls: list[str] = []
    handle = model.block["down"].register_forward_hook(lambda *args: calls.append("down"))
    quantize_for_inference(model)
    model(IDS)
    assert calls == ["down"]
    handle.remove()
    model(IDS)
    assert calls == ["down"]


def test_subclasses_and_parametrized_layers_are_left_alone() -> None:
    class Mine(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(8, 8), Mine(8, 8), torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
    quantize_for_inference(model)
    assert [type(layer).__name__ for layer in model] == ["InferenceLinear", "Mine", "ParametrizedLinear"]


def test_the_fused_path_of_transformer_layers_does_not_pass_by_the_codes() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 5, 16)
    quantize_for_inference(model, "int4/row", "int4/row")
    with_gradients = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), with_gradients)
        model(x, src_key_padding_mask=torch.zeros(2, 5, dtype=torch.bool))


def test_transformers_conv1d_is_replaced() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64, n_positions=16)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    expected = model(IDS).logits
    quantize_for_inference(model)
    assert isinstance(model.transformer.h[0].attn.c_attn, InferenceLinear)
    assert model.transformer.h[0].attn.c_attn.codes.shape == (96, 32)
    assert (model(IDS).logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: quantize_for_inference(nn.Sequential(nn.ReLU())), "model: no layer to quantise"),
        (lambda: quantize_for_inference(small(), None), "weight=None, and it is under no recipe"),
        (lambda: quantize_for_inference(small(), None, "int8"), "input: got int8, but weight=None"),
        (lambda: quantize_for_inference(small(), "int9/row"), "weight: .*at most 8 bits"),
        (lambda: quantize_for_inference(small(), "bogus"), "weight: format: unknown name 'bogus'"),
        (lambda: quantize_for_inference(small(), embedding="bogus"), "embedding: format: unknown name 'bogus'"),
        (lambda: quantize_for_inference(small(), input="bogus"), "input: format: unknown name 'bogus'"),
        (
            lambda: quantize_for_inference(quantize_for_inference(small())),
            r"model: no layer to quantise \(block.up, block.down hold codes already.*; lm_head: skip",
        ),
        (lambda: quantize_for_inference(nn.Sequential(nn.Linear(8, 8, device="meta"))), "0: layer: its weight is on"),
        (lambda: quantize_for_inference(small(), embedding="int8+sr"), "embedding: got"),
        (lambda: quantize_for_inference(small(), skip="lm_head"), "skip: expected a collection"),
    ],
)
def test_bad_arguments_are_named(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


def test_a_layer_in_two_places_of_one_module_stays_one() -> None:
    model = nn.ModuleDict({"a": nn.Linear(8, 8)})
    model["b"] = model["a"]
    quantize_for_inference(model)
    assert isinstance(model["b"], InferenceLinear)
    assert model["a"] is model["b"]


def test_every_layer_under_a_recipe_is_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(32, 8), nn.Conv1d(6, 4, 3, padding=1), nn.Linear(8, 8), nn.Linear(8, 8))
    ng.convert(model, "fp8_row", layers=("linear", "conv", "embedding"), skip=("3",))
    model.eval()
    expected = model(IDS)
    quantize_for_inference(model, None)
    assert [type(layer).__name__ for layer in model] == [
        "InferenceEmbedding", "InferenceConv", "InferenceLinear", "Linear"
    ]  # fmt: skip
    assert torch.equal(model(IDS), expected)


def test_a_recipe_that_leaves_the_weight_alone_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    ng.convert(model, ng.nn.recipe("inputs", x_fprop="int8/row"), skip=("1",))
    ng.convert(model, "fp8_row", skip=("0",))
    quantize_for_inference(model, None)
    assert [type(layer).__name__ for layer in model] == ["QuantLinear", "InferenceLinear"]
