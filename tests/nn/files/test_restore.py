"""`load`: what comes back, bit for bit, and what is refused with the model unchanged."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import narrowgauge as ng
from narrowgauge.formats import CodebookFormat, Scheme
from narrowgauge.nn import RECIPES, QuantLinear, recipe
from narrowgauge.nn.files import export, load, load_tensors
from narrowgauge.nn.inference import InferenceEmbedding, InferenceLinear


def plain(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(40, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 8, bias=False))


def trained(name: Any, dtype: torch.dtype = torch.float32, steps: int = 3) -> nn.Module:
    model = ng.convert(plain().to(dtype), name, keep_first=0, keep_last=0)
    train(model, steps)
    return model


def train(model: nn.Module, steps: int) -> None:
    dtype = next(model.parameters()).dtype
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        model(inputs(step, dtype)).float().square().mean().backward()
        optimizer.step()


def inputs(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(6, 40, generator=torch.Generator().manual_seed(seed)).to(dtype)


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(inputs(99, next(model.parameters()).dtype))


@pytest.mark.parametrize("name", RECIPES)
def test_training_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    model = trained(name)
    export(model, tmp_path / "a", weights=None)
    again = load(plain(7), tmp_path / "a")
    assert [m.recipe for m in again.modules() if isinstance(m, QuantLinear)] == [RECIPES[name]] * 2
    assert torch.equal(output(again), output(model))
    train(again, 2)
    train(model, 2)
    left, right = model.state_dict(), again.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", RECIPES)
def test_codes_give_the_forward_of_the_layer_that_was_exported(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = trained(name, dtype, steps=1)
    try:
        export(model, tmp_path / "a")
    except ValueError as error:
        assert "has no form of codes" in str(error)  # noqa: PT017
        pytest.skip(str(error))
    again = load(plain(7), tmp_path / "a")
    assert torch.equal(output(again), output(model))


def test_a_users_recipe_and_format_come_from_the_file(tmp_path: Path) -> None:
    mine = CodebookFormat.from_values([-3.0, -1.0, -0.2, 0.0, 0.2, 1.0, 3.0], name="seven_of_mine")
    plan = recipe("fp8_row", w_fprop=Scheme(mine, (1, 8)), g_dgrad="e5m2/row", source="not the one that is registered")
    model = trained(plan)
    export(model, tmp_path / "a", weights=None)
    again = load(plain(7), tmp_path / "a")
    assert again[0].recipe == plan != RECIPES["fp8_row"]
    assert torch.equal(output(again), output(model))


def test_two_recipes_of_one_name_stay_apart(tmp_path: Path) -> None:
    plans = [recipe("mine", w_fprop="int8/row"), recipe("mine", w_fprop="int4/row")]
    model = plain()
    for index, plan in zip((0, 3), plans, strict=True):
        model[index] = QuantLinear.from_linear(model[index], plan, seed=5 + index)
    export(model, tmp_path / "a", weights=None)
    again = load(plain(7), tmp_path / "a")
    assert [again[0].recipe, again[3].recipe, again[3].seed] == [*plans, 8]


@pytest.mark.parametrize("weights", [None, "recipe"])
@pytest.mark.parametrize("target", ["plain", "same", "other", "codes"])
def test_any_state_of_the_model_will_do(weights: str | None, target: str, tmp_path: Path) -> None:
    model = trained("int8_switchback")
    export(model, tmp_path / "a", weights=weights)
    into = plain(7)
    if target in ("same", "other"):
        ng.convert(into, "int8_switchback" if target == "same" else "mxfp8")
    if target == "codes":
        if weights is None:
            pytest.skip("a layer of codes has no weights to train")
        into = load(into, tmp_path / "a")
    assert torch.equal(output(load(into, tmp_path / "a")), output(model))


def test_layers_that_train_stay_the_objects_they_are(tmp_path: Path) -> None:
    export(trained("fp8_row"), tmp_path / "a", weights=None)
    into, seen = plain(7), []
    before = dict(into.named_parameters())
    layers = list(into)
    layers[0].register_forward_hook(lambda *_: seen.append("trains"))
    load(into, tmp_path / "a")
    assert all(parameter is before[name] for name, parameter in into.named_parameters())
    assert all(new is old for new, old in zip(into, layers, strict=True))
    export(trained("fp8_row"), tmp_path / "b")
    load(into, tmp_path / "b")
    assert isinstance(into[0], InferenceLinear)
    output_of_codes = into(inputs(0))
    assert output_of_codes.shape == (6, 8)
    assert seen == ["trains"]


def test_dtypes_become_those_of_the_file_and_meta_tensors_get_values(tmp_path: Path) -> None:
    model = trained("fp8_row", torch.bfloat16)
    export(model, tmp_path / "a", weights=None)
    with torch.device("meta"):
        empty = plain()
    for into in (plain(7), empty):
        load(into, tmp_path / "a")
        assert {parameter.dtype for parameter in into.parameters()} == {torch.bfloat16}
        assert torch.equal(output(into), output(model))


class Rotary(nn.Module):
    """A buffer that is in no state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.arange(4.0), persistent=False)


def test_meta_buffers_that_files_do_not_have_are_named(tmp_path: Path) -> None:
    model = nn.ModuleDict({"rope": Rotary(), "out": nn.Linear(4, 4)})
    ng.convert(model, "fp8_row")
    export(model, tmp_path / "a", weights=None)
    with torch.device("meta"):
        empty = nn.ModuleDict({"rope": Rotary(), "out": nn.Linear(4, 4)})
    with pytest.raises(ValueError, match=r"model: rope.inv_freq: on the meta device, and not in files"):
        load(empty, tmp_path / "a")
    assert type(empty["out"]) is nn.Linear
    assert empty["out"].weight.is_meta
    empty["rope"] = Rotary()
    load(empty, tmp_path / "a")
    assert torch.equal(empty["out"].weight, model["out"].weight)


def tied() -> nn.ModuleDict:
    model = nn.ModuleDict({"embed": nn.Embedding(16, 8), "up": nn.Linear(8, 8), "head": nn.Linear(8, 16, bias=False)})
    model["head"].weight = model["embed"].weight
    return model


def test_tied_weights_come_back_tied(tmp_path: Path) -> None:
    model = ng.convert(tied(), "fp8_row", skip=("head",))
    export(model, tmp_path / "a")
    untied = tied()
    untied["head"].weight = nn.Parameter(torch.zeros(16, 8))
    for into in (tied(), untied):
        load(into, tmp_path / "a")
        assert into["head"].weight is into["embed"].weight
        assert torch.equal(into["head"].weight, model["embed"].weight)


def test_a_model_that_ties_what_the_file_does_not_is_refused(tmp_path: Path) -> None:
    untied = tied()
    untied["head"].weight = nn.Parameter(torch.zeros(16, 8))
    export(untied, tmp_path / "a")
    refused(tied(), tmp_path / "a", "model: ties head.weight to embed.weight, the file has two tensors; untie them")


def test_a_layer_in_two_places_stays_one(tmp_path: Path) -> None:
    def shared() -> nn.ModuleDict:
        model = nn.ModuleDict({"a": nn.Linear(8, 8)})
        model["b"] = model["a"]
        return model

    model = shared()
    ng.convert(model, "fp8_row")
    for weights in (None, "recipe"):
        export(model, tmp_path / "a", weights=weights)
        into = load(shared(), tmp_path / "a")
        assert into["a"] is into["b"]
        assert torch.equal(into["b"](torch.ones(2, 8)), model["a"](torch.ones(2, 8)))


def refused(model: nn.Module, path: Path, message: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    recipes = [getattr(module, "recipe", None) for module in model.modules()]
    with pytest.raises(ValueError, match=re.escape(message)):
        load(model, path)
    assert classes == [type(module) for module in model.modules()]
    assert recipes == [getattr(module, "recipe", None) for module in model.modules()]
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


MISFITS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no such module": (lambda: nn.Sequential(nn.Linear(40, 24)), "model: has no module '3', in the file a QuantLinear"),
    "another shape": (
        lambda: nn.Sequential(nn.Linear(41, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 8, bias=False)),
        "model: 0.weight has shape [24, 41], in the file [24, 40]",
    ),
    "a bias more": (
        lambda: nn.Sequential(nn.Linear(40, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 8)),
        "model: 3.bias: not in the file",
    ),
    "a bias less": (
        lambda: nn.Sequential(nn.Linear(40, 24, bias=False), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 8, bias=False)),
        "model: 0.bias: missing in the model",
    ),
    "another class": (
        lambda: nn.Sequential(nn.Linear(40, 24), nn.LayerNorm(24), nn.ReLU(), nn.Bilinear(24, 1, 8, bias=False)),
        "model: 3 is a Bilinear, in the file a QuantLinear, which is made of torch.nn.modules.linear.Linear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_models_that_do_not_fit_are_refused_unchanged(name: str, tmp_path: Path) -> None:
    make, message = MISFITS[name]
    export(trained("fp8_row"), tmp_path / "a", weights=None)
    refused(make(), tmp_path / "a", message)


def test_a_quantised_layer_that_the_file_has_plain_is_refused(tmp_path: Path) -> None:
    export(plain(), tmp_path / "a")
    model = trained("mxfp8")
    refused(model, tmp_path / "a", "model: 0 is a QuantLinear, in the file a plain layer; revert it first")
    load(ng.revert(model), tmp_path / "a")
    assert torch.equal(output(model), output(plain()))


def test_damaged_files_change_nothing(tmp_path: Path) -> None:
    export(trained("fp8_row"), tmp_path / "a", weights=None)
    content = bytearray((tmp_path / "a").read_bytes())
    content[-3] ^= 1
    (tmp_path / "a").write_bytes(content)
    refused(plain(7), tmp_path / "a", "is damaged: ")


def test_a_single_layer_is_a_model(tmp_path: Path) -> None:
    layer = QuantLinear(8, 4, recipe="fp8_row")
    export(layer, tmp_path / "a", weights=None)
    assert torch.equal(load(QuantLinear(8, 4, recipe="mxfp8"), tmp_path / "a")(torch.ones(8)), layer(torch.ones(8)))
    export(layer, tmp_path / "a")
    with pytest.raises(ValueError, match="model: is a Linear, in the file an InferenceLinear; give one of those"):
        load(nn.Linear(8, 4), tmp_path / "a")
    codes = load(InferenceLinear.from_quant_linear(layer), tmp_path / "a")
    assert torch.equal(codes(torch.ones(8)), layer(torch.ones(8)))


def test_values_without_the_model_are_those_of_the_model(tmp_path: Path) -> None:
    model = trained("fp8_row", torch.bfloat16)
    export(model, tmp_path / "a")
    again, values = load(plain(7), tmp_path / "a"), load_tensors(tmp_path / "a")
    assert values["0.weight"].dtype == torch.bfloat16
    assert torch.equal(values["0.weight"], again[0].dequantize())
    assert values.keys() == model.state_dict().keys()


def test_tables_of_codes_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(20, 16, padding_idx=3)
    model = nn.Sequential(InferenceEmbedding.from_embedding(table, "nf4/1x16", double_scale=True))
    export(model, tmp_path / "a")
    again = load(nn.Sequential(nn.Embedding(20, 16)), tmp_path / "a")
    assert torch.equal(again(torch.arange(20)), model(torch.arange(20)))
    assert torch.equal(load_tensors(tmp_path / "a")["0.weight"], model[0].dequantize())
