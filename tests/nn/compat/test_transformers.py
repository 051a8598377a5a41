"""Models of the transformers library, unchanged but for `convert`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.nn.layer_kinds import quantised_kind

pytest.importorskip("transformers")

from small_transformers import MODELS, build, llama

LAYERS = {"llama": 14, "gpt2": 8, "bert": 13, "vit": 12}
SKIP = ("lm_head", "classifier", "decoder")


def quantised(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if quantised_kind(module) is not None}


def gradients(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = model(**batch).loss
    assert torch.isfinite(loss)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_point_where_those_of_float32_do(name: str) -> None:
    model, batch = build(name)
    expected = gradients(copy.deepcopy(model), batch)
    ng.convert(model.train(), "fp8_row", skip=SKIP)
    actual = gradients(model, batch)
    layers = quantised(model)
    assert len(layers) == LAYERS[name]
    assert actual.keys() == expected.keys()
    for layer in layers:
        grad = actual[f"{layer}.weight"]
        assert grad.abs().max() > 0, layer
        assert nn.functional.cosine_similarity(grad.flatten(), expected[f"{layer}.weight"].flatten(), dim=0) > 0.9, (
            layer
        )


@pytest.mark.parametrize("name", MODELS)
def test_revert_gives_the_same_logits_bit_for_bit(name: str) -> None:
    model, batch = build(name)
    keys, expected = list(model.state_dict()), model(**batch).logits
    ng.convert(model, "mxfp8", skip=SKIP)
    assert list(model.state_dict()) == keys
    assert not torch.equal(model(**batch).logits, expected)
    ng.revert(model)
    assert not quantised(model)
    assert torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize("name", MODELS)
def test_explain_lists_every_matrix_product_of_the_layers(name: str) -> None:
    model, _ = build(name)
    table = ng.explain(ng.convert(model, "fp8_row", skip=SKIP))
    assert {row.name for row in table.converted} == set(quantised(model))
    left = {row.name.rpartition(".")[2]: row.reason for row in table.rows if not row.gemms}
    assert all(left.values())
    head = {"vit": "classifier", "bert": "decoder"}.get(name, "lm_head")
    assert left[head] == f"skip: {head!r}"
    if name == "vit":
        assert "layers=" in left["projection"]
    for row in table.converted:
        assert row.saved_after < row.saved_before / 3


def test_tied_embeddings_stay_tied_and_blocks_are_kept() -> None:
    model, batch = build("gpt2")
    ng.convert(model, "fp8_row", skip=(), keep_last=1)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert quantised_kind(model.lm_head) is not None
    assert {name.split(".")[2] for name in quantised(model) if ".h." in name} == {"0"}
    assert gradients(model, batch)["transformer.wte.weight"].abs().max() > 0


def test_generation_works() -> None:
    model, batch = build("llama")
    ng.convert(model, "fp8_row")
    ids = batch["input_ids"]
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False,
                         pad_token_id=0)  # fmt: skip
    assert out.shape == (2, 15)


def test_saved_in_their_format_and_read_back(tmp_path) -> None:
    model, batch = build("llama")
    ng.convert(model, "fp8_row").save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert not quantised(again)
    assert torch.equal(ng.convert(again, "fp8_row")(**batch).logits, model(**batch).logits)


def test_gradient_checkpointing_of_theirs_gives_the_same_bits() -> None:
    model, batch = build("llama")
    ng.convert(model.train(), "fp8_row")
    expected = gradients(model, batch)
    model.activation_checkpointing_enable()
    actual = gradients(model, batch)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_twenty_million_parameters_learn_in_fifty_steps() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 7}
    model, _ = llama(**sizes, num_attention_heads=8, num_key_value_heads=8)
    assert sum(p.numel() for p in model.parameters()) >= 20_000_000
    ng.convert(model.train(), "fp8_row")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(2)
    losses = []
    for _ in range(50):
        start = torch.randint(0, 16, (2, 1), generator=generator)
        ids = (start + 5 * torch.arange(16)) % 16
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5]), losses
