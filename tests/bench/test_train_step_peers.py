"""Peers of the suite `train`: what they do to a model, with stand-ins where they are not installed."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from torch import nn

from narrowgauge.bench import train_step_peers
from narrowgauge.bench.train_step import sizes
from narrowgauge.bench.train_step_peers import MX_SPECS, PEERS
from narrowgauge.train import Llama


@pytest.fixture
def model() -> Llama:
    return Llama(sizes(64, 1, 8), seed=0)


@pytest.mark.parametrize("name", PEERS)
def test_absent_packages_are_said_to_be_absent(name: str, model, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> ModuleType:
        raise ValueError("is not installed")

    monkeypatch.setattr(train_step_peers, "installed", absent)
    with pytest.raises(ValueError, match="is not installed"):
        PEERS[name](model)


def test_microxcaling_layers_keep_the_parameters_and_the_head_stays(model, monkeypatch: pytest.MonkeyPatch) -> None:
    class Linear(nn.Linear):
        def __init__(self, inputs: int, outputs: int, bias: bool, specs, name: str) -> None:
            super().__init__(inputs, outputs, bias)
            self.specs = specs

    specs = ModuleType("mx.specs")
    specs.finalize_mx_specs = lambda asked: {"asked": asked}
    monkeypatch.setitem(sys.modules, "mx.specs", specs)
    monkeypatch.setattr(train_step_peers, "installed", lambda name: SimpleNamespace(Linear=Linear))
    before = dict(model.named_parameters())
    converted = PEERS["microxcaling mxfp8"](model)
    assert converted is model
    assert dict(model.named_parameters()) == before
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert type(layers.pop("lm_head")) is nn.Linear
    assert all(type(layer) is Linear and layer.specs == {"asked": MX_SPECS} for layer in layers.values())


@pytest.mark.parametrize("name", [name for name in PEERS if name.startswith("torchao")])
def test_torchao_emulates_and_leaves_the_head(name: str, model) -> None:
    pytest.importorskip("torchao.float8")
    PEERS[name](model)
    kinds = {path: type(layer).__name__ for path, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert kinds.pop("lm_head") == "Linear"
    assert set(kinds.values()) == {"Float8Linear"}
    assert model.layers[0].mlp.up_proj.config.emulate
