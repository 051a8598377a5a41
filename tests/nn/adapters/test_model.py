"""add_lora and merge_lora on models: what is chosen, what trains, what is saved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.nn import QuantLinear
from narrowgauge.nn.adapters import (
    LoRALinear,
    add_lora,
    load_lora_state_dict,
    lora_parameters,
    lora_state_dict,
    merge_lora,
)
from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.nn.qat import prepare_qat
from shared_layers import SharedLayers

IDS = torch.arange(24).reshape(4, 6)


def small(seed: int = 0) -> SharedLayers:
    return SharedLayers(64, 128, seed=seed)


def train(model: nn.Module, steps: int = 30) -> list[float]:
    """Losses of predicting the next index."""
    optimizer = torch.optim.Adam(lora_parameters(model), 1e-2)
    losses = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("base", [None, "nf4", "int8/row"])
@pytest.mark.parametrize("recipe", [None, "fp8_row"])
def test_adapters_train_and_the_rest_stays_as_it_is(base: str | None, recipe: str | None) -> None:
    model = small()
    if recipe is not None:
        ng.convert(model, recipe)
    assert add_lora(model, rank=4, base=base) is model
    assert model.again is model.block["up"]
    expected = InferenceLinear if base else QuantLinear if recipe else nn.Linear
    assert type(model.block["up"].base) is expected
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["block.up.lora_A", "block.up.lora_B", "block.down.lora_A", "block.down.lora_B"]
    before = {name: t.clone() for name, t in model.state_dict().items() if "lora" not in name}
    losses = train(model)
    assert losses[-1] < 0.7 * losses[0]
    after = model.state_dict()
    assert all(torch.equal(after[name], t) for name, t in before.items())


def test_targets_choose() -> None:
    model = add_lora(small(), target=("down",))
    assert isinstance(model.block["down"], LoRALinear)
    assert type(model.block["up"]) is nn.Linear
    model = add_lora(small(), target=lambda module, name: module.in_features == 64 and name != "lm_head")
    assert isinstance(model.block["up"], LoRALinear)
    assert type(model.block["down"]) is nn.Linear
    assert type(add_lora(small()).lm_head) is nn.Linear
    assert isinstance(add_lora(small(), target=("lm_head",)).lm_head, LoRALinear)


@pytest.mark.parametrize("base", [None, "nf4"])
def test_merging_gives_plain_layers_and_the_same_outputs(base: str | None) -> None:
    model = add_lora(small(), rank=4, base=base)
    train(model, 5)
    with torch.no_grad():
        expected = model(IDS)
    assert merge_lora(model) is model
    assert type(model.block["up"]) is type(model.block["down"]) is nn.Linear
    assert model.again is model.block["up"]
    torch.testing.assert_close(model(IDS), expected, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == list(small().state_dict())


def test_merging_into_a_tied_weight_leaves_the_other_alone() -> None:
    model = add_lora(small(), target=("lm_head",))
    with torch.no_grad():
        model.lm_head.lora_B.normal_()
    table = model.embed.weight.detach().clone()
    merge_lora(model)
    assert torch.equal(model.embed.weight, table)
    assert not torch.equal(model.lm_head.weight, table)


def test_adapters_are_saved_alone_and_loaded_by_name() -> None:
    first, second = add_lora(small(), rank=4, base="nf4"), add_lora(small(), rank=4, base="nf4")
    train(first, 3)
    state = lora_state_dict(first)
    assert list(state) == ["block.up.lora_A", "block.up.lora_B", "block.down.lora_A", "block.down.lora_B"]
    load_lora_state_dict(second, state)
    assert torch.equal(first(IDS), second(IDS))
    with pytest.raises(ValueError, match=r"state: missing .*block.up.lora_A.*unexpected .*up.lora_A"):
        load_lora_state_dict(second, {name.removeprefix("block."): t for name, t in state.items()})
    with pytest.raises(ValueError, match="has shape"):
        load_lora_state_dict(add_lora(small(), rank=2), state)


def test_the_whole_state_dict_round_trips() -> None:
    first, second = add_lora(small(0), base="nf4"), add_lora(small(1), base="nf4")
    train(first, 3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(IDS), second(IDS))


def test_hooks_belong_to_the_place() -> None:
    model = small()
    calls: list[str] = []
    handle = model.block["down"].register_forward_hook(lambda module, *args: calls.append(type(module).__name__))
    add_lora(model)
    model(IDS)
    merge_lora(model)
    model(IDS)
    handle.remove()
    model(IDS)
    assert calls == ["LoRALinear", "Linear"]


def test_transformer_layers_call_their_adapters_in_eval_mode() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0), 1).eval()
    x = torch.randn(2, 5, 16)
    add_lora(model)
    for parameter in lora_parameters(model):
        parameter.data.normal_()
    with_gradients = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), with_gradients)


def test_gpt2_takes_adapters() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=64, n_positions=16)
    model = transformers.GPT2LMHeadModel(config).eval()
    add_lora(model, target=("c_attn", "c_proj"), base="nf4")
    layer = model.transformer.h[0].attn.c_attn
    assert layer.lora_B.shape == (192, 8)
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    assert layer.lora_B.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: add_lora(small(), target="down"), "target: expected a function or a collection"),
        (lambda: add_lora(small(), target=("dwon",)), "target: 'dwon' names no linear layer .*; names: "),
        (lambda: add_lora(small(), target=lambda m, n: False), "target chose none of its 3"),
        (
            lambda: add_lora(small(), target=("lm_head",), base="nf4"),
            "base: the weight of lm_head is shared by embed and",
        ),
        (
            lambda: add_lora(add_lora(small(), base="nf4", target=("up",)), base="nf4", target=("up",)),
            "target: 'up' names no linear layer that can have an adapter; block.up has an adapter already; merge_lora",
        ),
        (
            lambda: add_lora(add_lora(small())),
            "target chose none of its 1 linear layers; block.up, block.down, again have an adapter already; merge_lora",
        ),
        (
            lambda: add_lora(prepare_qat(small(), "lsq")),
            "target chose none of its 1 linear layers; block.up, block.down, again have QAT quantisers; freeze_qat or",
        ),
        (lambda: add_lora(prepare_qat(small(), "lsq"), target=("down",)), "block.down has QAT quantisers; freeze_qat"),
        (lambda: merge_lora(small()), "model: has no LoRALinear"),
    ],
)
def test_bad_arguments_are_named(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize(
    "settings", [{"rank": "8"}, {"alpha": "x"}, {"dropout": "0.1"}, {"dtype": torch.int8}, {"dtype": "int8"}]
)
def test_settings_of_other_types_change_nothing(settings: dict[str, object]) -> None:
    model = small()
    with pytest.raises(TypeError, match=f"{next(iter(settings))}: "):
        add_lora(model, **settings)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_layer_in_two_places_of_one_module_stays_one() -> None:
    model = nn.ModuleDict({"a": nn.Linear(8, 8)})
    model["b"] = model["a"]
    add_lora(model, base="int8/row")
    assert isinstance(model["b"], LoRALinear)
    assert model["a"] is model["b"]
    merge_lora(model)
    assert type(model["b"]) is nn.Linear
    assert model["a"] is model["b"]
