"""QAT models, frozen ones and adapters in files: a plain model becomes them, bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import narrowgauge as ng
from narrowgauge.nn.adapters import LoRALinear, add_lora, lora_parameters, merge_lora
from narrowgauge.nn.files import export, load, load_tensors
from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.nn.qat import (
    QAT,
    ContinualQAT,
    FrozenLinear,
    QATLinear,
    e2e_qp,
    freeze_qat,
    prepare_qat,
    qat,
    revert_qat,
)
from narrowgauge.nn.qat.lsq import LSQActivation

X = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
SETTINGS = {
    "efficientqat": {"group": 16},
    "bitdistiller": {"grid": "nf", "group": 16},
    "binaryconnect": {"stochastic": True},
    "lsq": {"activation_bits": 4, "signed": False},
    "lsq_plus": {"activation_bits": 4},
    "continual": {"start": 1, "ramp": 2},
}


def named(seed: int = 3) -> nn.Module:
    """A model with a layer that is called k_proj."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k_proj, self.out = nn.Linear(64, 32), nn.Linear(32, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.k_proj(x).relu())

    torch.manual_seed(seed)
    return Named()


def train(model: nn.Module, steps: int, schedule: ContinualQAT | None = None) -> list[Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.1)
    losses = []
    for _ in range(steps):
        loss = model(X).square().mean()
        losses.append(loss.detach())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if schedule is not None:
            schedule.step()
    return losses


@pytest.mark.parametrize("name", QAT)
def test_training_goes_on_and_frozen_codes_come_back(name: str, tmp_path: Path) -> None:
    model = prepare_qat(named(), qat(name, **SETTINGS.get(name, {})))
    schedule = ContinualQAT(model) if name == "continual" else None
    train(model, 2, schedule)
    export(model, tmp_path / "training", weights=None)
    again = load(named(seed=4), tmp_path / "training")
    assert isinstance(again.out, QATLinear)
    assert again.k_proj.config == model.k_proj.config
    assert (again.k_proj.output_quantizer is None) == (name != "llm_qat")
    for mode in (False, True):
        assert torch.equal(again.train(mode)(X), model.train(mode)(X))
    if schedule is not None:
        further = ContinualQAT(again)
        further.load_state_dict(schedule.state_dict())
        assert [*map(float, train(again, 3, further))] == [*map(float, train(model, 3, schedule))]
    assert [*map(float, train(again, 3))] == [*map(float, train(model, 3))]
    freeze_qat(model.eval())
    expected = model(X)
    export(model, tmp_path / "frozen")
    found = load(named(seed=4).eval(), tmp_path / "frozen")
    assert type(found.k_proj) is type(model.k_proj)
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert torch.equal(found(X), expected)
    assert torch.equal(load(prepare_qat(named(5), "ste").eval(), tmp_path / "frozen")(X), expected)
    assert torch.equal(load(found, tmp_path / "frozen")(X), expected)


def test_a_prepared_model_keeps_its_layers_and_parameters(tmp_path: Path) -> None:
    model = prepare_qat(named(), qat("lsq", activation_bits=4))
    train(model, 2)
    export(model, tmp_path / "a", weights=None)
    again = prepare_qat(named(seed=4), qat("lsq", activation_bits=4))
    layers, parameters = list(again.modules()), list(again.parameters())
    load(again, tmp_path / "a")
    assert all(a is b for a, b in zip(layers, again.modules(), strict=True))
    assert all(a is b for a, b in zip(parameters, again.parameters(), strict=True))
    # The learned steps have begun: the next batch does not begin them anew.
    assert torch.equal(again(100.0 * X), model(100.0 * X))
    revert_qat(again)
    with pytest.raises(ValueError, match="model: k_proj is a QATLinear, in the file a plain layer; revert it first"):
        load(model, plain_file(again, tmp_path / "b"))


def plain_file(model: nn.Module, path: Path) -> Path:
    export(model, path)
    return path


def test_integers_that_are_frozen_stay_frozen(tmp_path: Path) -> None:
    model = prepare_qat(named(), qat("efficientqat", group=16))
    e2e_qp(model)
    export(model, tmp_path / "a", weights=None)
    again = load(named(seed=4), tmp_path / "a")
    assert torch.equal(again.out.weight_quantizer.integers, model.out.weight_quantizer.integers)
    assert not again.out.weight_quantizer.zero.requires_grad
    model.out.weight.data.zero_()
    again.out.weight.data.zero_()
    assert torch.equal(again(X), model(X))


def test_the_meta_device_gets_qat_layers(tmp_path: Path) -> None:
    model = prepare_qat(named(), qat("llm_qat"))
    export(model, tmp_path / "a", weights=None)
    with torch.device("meta"):
        empty = named(seed=4)
    assert torch.equal(load(empty, tmp_path / "a")(X), model(X))


def test_a_quantiser_that_was_not_made_of_a_part_is_refused(tmp_path: Path) -> None:
    layer = FrozenLinear(InferenceLinear(4, 4), LSQActivation(4), None)
    with pytest.raises(TypeError, match=r"activation: a LSQActivation that was not made by part\(…\).make\(\)"):
        export(nn.Sequential(layer), tmp_path / "a")


def test_another_layer_in_its_place_is_refused_and_the_model_unchanged(tmp_path: Path) -> None:
    export(prepare_qat(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "ste"), tmp_path / "a", weights=None)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    before = list(model)
    with pytest.raises(ValueError, match="model: a ReLU is in the place of a QATLinear"):
        load(model, tmp_path / "a")
    assert all(a is b for a, b in zip(before, model, strict=True))
    export(add_lora(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))), tmp_path / "b")
    with pytest.raises(ValueError, match="model: a ReLU is in the place of a LoRALinear"):
        load(model, tmp_path / "b")
    assert all(parameter.requires_grad for parameter in model.parameters())


BASES: dict[str, tuple[Any, Any]] = {
    "plain": (None, None),
    "nf4": (None, "nf4"),
    "int8": (None, "int8/row"),
    "fp8": ("fp8_row", None),
}


@pytest.mark.parametrize("weights", [None, "recipe"])
@pytest.mark.parametrize("base", BASES)
def test_adapters_come_back_around_their_bases(base: str, weights: str | None, tmp_path: Path) -> None:
    recipe, scheme = BASES[base]
    model = named()
    if recipe is not None:
        ng.convert(model, recipe)
    add_lora(model, 4, 8.0, base=scheme, dropout=0.1, dtype=torch.bfloat16)
    train(model, 3)
    export(model.eval(), tmp_path / "a", weights=weights)
    again = load(named(seed=4).eval(), tmp_path / "a")
    layer = again.out
    assert isinstance(layer, LoRALinear)
    assert (layer.rank, layer.alpha, layer.dropout.p, layer.lora_A.dtype) == (4, 8.0, 0.1, torch.bfloat16)
    assert isinstance(layer.base, InferenceLinear) == (scheme is not None or (base, weights) == ("fp8", "recipe"))
    assert torch.equal(again(X), model(X))
    adapted = add_lora(named(seed=5), 2)
    kept = adapted.out
    load(adapted.eval(), tmp_path / "a")
    assert adapted.out is not kept
    assert torch.equal(adapted(X), model(X))
    if weights is None:
        parameters = [(p.grad, p) for p in lora_parameters(again)]
        assert len(parameters) == 4
        assert torch.equal(merge_lora(again)(X), merge_lora(model)(X))


def test_values_of_adapters_can_be_read_without_a_model(tmp_path: Path) -> None:
    model = add_lora(named(), base="nf4")
    export(model, tmp_path / "a")
    found = load_tensors(tmp_path / "a")
    assert torch.equal(found["out.base.weight"], model.out.base.dequantize())
    assert torch.equal(found["out.lora_A"], model.out.lora_A.detach())


def test_hooks_move_to_the_restored_layer_with_their_handles(tmp_path: Path) -> None:
    export(add_lora(named(), base="nf4"), tmp_path / "a")
    model, seen = named(seed=4), []
    handle = model.out.register_forward_hook(
        lambda module, args, kwargs, y: seen.append(type(module)), with_kwargs=True
    )
    load(model, tmp_path / "a")
    model(X)
    assert seen == [LoRALinear]
    handle.remove()
    copy.deepcopy(model)(X)
    assert len(seen) == 1
