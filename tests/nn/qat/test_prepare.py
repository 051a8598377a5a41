"""prepare_qat and revert_qat on models."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from narrowgauge.nn.qat import (
    QATLinear,
    after_step,
    freeze_qat,
    prepare_qat,
    qat,
    qat_layers,
    quantizer_parameters,
    revert_qat,
)  # fmt: skip
from shared_layers import SharedLayers

IDS = torch.arange(12).reshape(2, 6)


def test_parameters_stay_the_same_objects_and_learned_ones_are_added() -> None:
    model = SharedLayers()
    before = dict(model.named_parameters())
    assert prepare_qat(model, qat("lsq", bits=3)) is model
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    added = set(after) - set(before)
    assert added == {"block.up.weight_quantizer.step", "block.down.weight_quantizer.step"}
    assert {id(p) for p in quantizer_parameters(model)} == {id(after[name]) for name in added}
    assert model.again is model.block["up"]
    assert type(model.lm_head) is nn.Linear
    assert list(qat_layers(model)) == ["block.up", "block.down"]


def test_preparing_again_keeps_what_was_learned() -> None:
    model = prepare_qat(SharedLayers(), qat("lsq", bits=3))
    layer = model.block["up"]
    with torch.no_grad():
        layer.weight_quantizer.step.fill_(0.123)
    prepare_qat(model, qat("lsq", bits=3))
    assert model.block["up"] is layer
    prepare_qat(model, qat("lsq", bits=4))
    assert model.block["up"] is not layer
    assert model.block["up"].weight is layer.weight
    assert model.block["up"].config.weight == qat("lsq", bits=4).weight


def test_revert_gives_plain_layers_with_the_same_bits() -> None:
    model = SharedLayers()
    expected = model(IDS)
    revert_qat(prepare_qat(model, "bitnet_b158"))
    assert not any(isinstance(module, QATLinear) for module in model.modules())
    assert torch.equal(model(IDS), expected)
    assert model.again is model.block["up"]


def test_hooks_mode_and_state_move_along() -> None:
    model = SharedLayers().eval()
    calls: list[str] = []
    model.block["up"].register_forward_hook(lambda *args: calls.append("forward"))
    model.block["up"].register_forward_pre_hook(lambda module, args, kwargs: calls.append("pre"), with_kwargs=True)
    prepare_qat(model, qat("lsq"))
    assert not model.block["up"].training
    model(IDS)
    assert calls == ["pre", "forward"] * 2
    other = prepare_qat(SharedLayers(), qat("lsq"))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(IDS), model(IDS))
    revert_qat(model)(IDS)
    assert calls == ["pre", "forward"] * 6


def test_filter_and_skip_leave_layers_alone() -> None:
    model = prepare_qat(SharedLayers(), "llm_qat", filter_fn=lambda module, name: "down" not in name, skip=())
    assert isinstance(model.lm_head, QATLinear)
    assert model.lm_head.weight is model.embed.weight
    assert type(model.block["down"]) is nn.Linear
    model = prepare_qat(SharedLayers(), "llm_qat", skip=("block.up", "lm_head", "again"))
    assert type(model.block["up"]) is nn.Linear


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        (("block.*",), ["lm_head"]),
        (("up",), ["block.down", "lm_head"]),
        ((re.compile("up|head"),), ["block.down"]),
        (("nothing.*",), ["block.up", "block.down", "lm_head"]),
    ],
)
def test_skip_takes_the_patterns_of_convert(skip: tuple[object, ...], left: list[str]) -> None:
    assert list(qat_layers(prepare_qat(SharedLayers(), "llm_qat", skip=skip))) == left


def test_a_layer_that_does_not_fit_is_named_and_nothing_changes() -> None:
    model = SharedLayers()
    with pytest.raises(ValueError, match=r"block\.down: group: 16 does not divide the 24 inputs"):
        prepare_qat(model, qat("efficientqat", group=16))
    assert not any(isinstance(module, QATLinear) for module in model.modules())


def test_after_step_clips_binary_connect_weights_alone() -> None:
    model = prepare_qat(SharedLayers(), "binaryconnect")
    with torch.no_grad():
        model.block["up"].weight.mul_(100)
        model.lm_head.weight.mul_(100)
    after_step(model)
    assert model.block["up"].weight.abs().max() == 1
    assert model.lm_head.weight.abs().max() > 1


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: prepare_qat(SharedLayers(), "lqs"), "unknown method 'lqs'"),
        (lambda: prepare_qat(SharedLayers(), "lsq", skip="lm_head"), "skip: expected a collection"),
        (lambda: prepare_qat(nn.Linear(2, 2), "lsq"), "from_linear"),
        (lambda: prepare_qat(nn.Sequential(nn.ReLU()), "lsq"), "no nn.Linear to prepare"),
        (lambda: prepare_qat(SharedLayers(), "lsq", filter_fn=lambda module, name: False), "filter_fn said no"),
        (lambda: qat_layers(SharedLayers()), "call prepare_qat first"),
    ],
)
def test_bad_input_is_named(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


def test_config_has_a_type() -> None:
    with pytest.raises(TypeError, match="config: expected a QATConfig"):
        prepare_qat(SharedLayers(), 4)
    with pytest.raises(TypeError, match="skip: expected names, globs or compiled regular expressions, got 3"):
        prepare_qat(SharedLayers(), "lsq", skip=(3,))


def test_a_layer_in_two_places_of_one_module_stays_one_and_takes_its_hooks_along() -> None:
    model = nn.ModuleDict({"a": nn.Linear(8, 8)})
    model["b"] = model["a"]
    seen: list[type] = []
    handle = model["a"].register_forward_hook(lambda layer, args, y: seen.append(type(layer)))
    prepare_qat(model, "llm_qat")
    assert model["a"] is model["b"]
    model["b"](torch.randn(2, 8))
    assert [kind.__name__ for kind in seen] == ["QATLinear"]
    handle.remove()
    model["b"](torch.randn(2, 8))
    assert len(seen) == 1


@pytest.mark.parametrize("frozen", [False, True])
def test_a_transformer_block_calls_its_layers_in_evaluation(frozen: bool) -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    x = torch.randn(3, 5, 16)
    prepare_qat(block, qat("ste", weight="int2/row"))
    if frozen:
        freeze_qat(block)
    trained = block(x)
    with torch.no_grad():
        torch.testing.assert_close(block.eval()(x), trained, rtol=1e-4, atol=1e-4)
