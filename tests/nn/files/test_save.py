"""`export`: what is stored, once, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import narrowgauge as ng
from narrowgauge.kernels import quantize
from narrowgauge.nn import recipe
from narrowgauge.nn.files import describe, export, load, load_tensors, save_tensors
from narrowgauge.nn.qat import prepare_qat


def converted(name: str = "fp8_row") -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 24), nn.LayerNorm(24), nn.Linear(24, 8, bias=False))
    ng.convert(model, name)
    return model


def test_masters_are_stored_as_they_are(tmp_path: Path) -> None:
    model = converted()
    export(model, tmp_path / "a", weights=None)
    stored = load_file(tmp_path / "a")
    assert {name: t.tolist() for name, t in stored.items()} == {n: t.tolist() for n, t in model.state_dict().items()}


def test_codes_are_those_of_quantize(tmp_path: Path) -> None:
    model = converted("mxfp8")
    weight = model[0].weight.detach().clone()
    export(model, tmp_path / "a")
    q, stored = quantize(weight, "mxfp8_e4m3"), load_file(tmp_path / "a")
    assert sorted(stored) == ["0.bias", "0.codes", "0.scale", "1.bias", "1.weight", "2.codes", "2.scale"]
    assert torch.equal(stored["0.codes"], q.codes)
    assert torch.equal(stored["0.scale"], q.scale)
    assert torch.equal(load_tensors(tmp_path / "a")["0.weight"], q.dequantize())
    assert torch.equal(model[0].weight, weight)


def test_narrow_codes_are_packed(tmp_path: Path) -> None:
    export(converted(), tmp_path / "a", weights="nf4/1x8")
    stored = load_file(tmp_path / "a")
    assert (stored["0.codes"].dtype, tuple(stored["0.codes"].shape)) == (torch.uint8, (24, 20))
    assert {row.name: row.scheme for row in describe(tmp_path / "a").rows if row.scheme} == {
        "0.weight": "nf4/1x8", "2.weight": "nf4/1x8"
    }  # fmt: skip


def test_a_recipe_without_weights_in_few_bits_keeps_them(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    ng.convert(model, recipe("gradients", g_dgrad="e5m2"))
    export(model, tmp_path / "a")
    assert sorted(load_file(tmp_path / "a")) == ["0.bias", "0.weight"]


def test_layers_without_a_form_of_codes_are_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    ng.convert(model, recipe("drawn", w_fprop="int8/row+sr"))
    with pytest.raises(ValueError, match=r"weights: 0 under recipe 'drawn' has no form of codes .*; use weights=None"):
        export(model, tmp_path / "a")
    assert not list(tmp_path.iterdir())
    export(model, tmp_path / "a", weights=None)


def test_codes_are_not_quantised_again(tmp_path: Path) -> None:
    export(converted(), tmp_path / "a")
    model = load(converted(), tmp_path / "a")
    export(model, tmp_path / "b", weights="e4m3fn/row")
    assert load_file(tmp_path / "b").keys() == load_file(tmp_path / "a").keys()
    with pytest.raises(ValueError, match=r"weights: 0.weight is held as codes of e4m3fn/row, got nf4/1x8"):
        export(model, tmp_path / "b", weights="nf4/1x8")


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown name 'recipes'"):
        export(converted(), tmp_path / "a", weights="recipes")


@pytest.mark.parametrize("prepared", [False, True])
def test_a_scheme_for_a_model_without_quantised_layers_is_refused(prepared: bool, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 8))
    if prepared:
        prepare_qat(model, "lsq")
    with pytest.raises(ValueError, match=r"weights: got nf4/1x64, but no layer .* is quantised; convert\(model"):
        export(model, tmp_path / "a", weights="nf4/1x64")
    assert not list(tmp_path.iterdir())


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(16, 8), "a": nn.Linear(8, 16), "b": nn.Linear(8, 16)})
    model["a"].weight = model["b"].weight = model["embed"].weight
    model["c"] = model["a"]
    export(model, tmp_path / "plain")
    assert sorted(load_file(tmp_path / "plain")) == ["a.bias", "b.bias", "embed.weight"]
    found = load_tensors(tmp_path / "plain")
    assert found.keys() == model.state_dict().keys()
    assert found["b.weight"] is found["embed.weight"]
    for name in ("a", "b"):
        model[name] = model["c"] = ng.QuantLinear.from_linear(model[name])
    export(model, tmp_path / "codes")
    stored = load_file(tmp_path / "codes")
    assert sorted(stored) == ["a.bias", "a.codes", "a.scale", "b.bias", "embed.weight"]
    rows = {row.name: row for row in describe(tmp_path / "codes").rows}
    assert (rows["a.weight"].bytes, rows["b.weight"].bytes, rows["b.weight"].tied_to) == (8 * 16 + 64, 0, "a.weight")


def test_modules_and_tensors_that_files_cannot_hold_are_refused(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        recipe = "mine"

    with pytest.raises(TypeError, match="model: 0 is an Odd, which has a recipe and is not known to files; see narrow"):
        export(nn.Sequential(Odd(2, 2)), tmp_path / "a")

    class Extra(nn.Module):
        def get_extra_state(self) -> int:
            return 3

    with pytest.raises(TypeError, match="model: 1 is an Extra with extra state"):
        export(nn.Sequential(nn.ReLU(), Extra()), tmp_path / "a")

    class Sub(torch.Tensor):
        pass

    model = nn.Linear(2, 2)
    model.register_buffer("more", torch.ones(2).as_subclass(Sub))
    with pytest.raises(TypeError, match="model: more is a Sub, accepted: plain tensors; gather shards first"):
        export(model, tmp_path / "a")
    with pytest.raises(TypeError, match="tensors: x is a int"):
        save_tensors({"x": 3}, tmp_path / "a")  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"tensors: two are called 'x.codes'"):
        save_tensors({"x": quantize(torch.ones(2), "int8"), "x.codes": torch.ones(2)}, tmp_path / "a")
