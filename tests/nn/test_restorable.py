"""Classes of one's own in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import narrowgauge as ng
from narrowgauge.kernels import quantize
from narrowgauge.nn.files import export, load, load_tensors
from narrowgauge.nn.inference import InferenceLinear
from narrowgauge.nn.restorable import REGISTERED, Encoded, register


class Coded(nn.Module):
    """A table of codes, with a trained layer inside."""

    codes: Tensor
    scale: Tensor

    def __init__(self, rows: int, cols: int, scheme: str) -> None:
        super().__init__()
        self.rows, self.cols, self.scheme = rows, cols, scheme
        q = quantize(torch.randn(rows, cols), scheme)
        self.register_buffer("codes", ng.kernels.pack(q.codes, 4))
        self.register_buffer("scale", q.scale)
        self.gain = nn.Parameter(torch.randn(cols))
        self.inner = nn.Linear(cols, cols)

    @property
    def quantization(self) -> dict[str, Any]:
        return {"rows": self.rows, "cols": self.cols, "scheme": self.scheme}

    @property
    def encoded(self) -> Mapping[str, Encoded]:
        parts = {"codes": self.codes, "scale": self.scale}
        return {"table": Encoded(ng.formats.parse(self.scheme), (self.rows, self.cols), torch.float32, parts)}

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.gain)


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTERED, "Coded", Coded)


@pytest.mark.usefixtures("_registered")
def test_a_registered_module_is_made_again_in_the_place_of_any_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(), Coded(6, 10, "int4/1x5"))
    ng.convert(model, "mxfp8")
    export(model, tmp_path / "a")
    state = torch.get_rng_state()
    again = load(nn.Sequential(nn.ReLU(), nn.Identity()), tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(again[1], Coded)
    assert torch.equal(again(torch.ones(2, 10)), model(torch.ones(2, 10)))
    expected = ng.QuantizedTensor(model[1].codes, model[1].scale, torch.ones(()), "int4/1x5", torch.float32)
    codes = ng.kernels.unpack(expected.codes, 4, 10, signed=True)
    values = ng.QuantizedTensor(codes, expected.scale, expected.outer, "int4/1x5", torch.float32).dequantize()
    assert torch.equal(load_tensors(tmp_path / "a")["1.table"], values)


@pytest.mark.usefixtures("_registered")
def test_a_class_that_is_not_registered_any_more_is_named(tmp_path: Path) -> None:
    export(nn.Sequential(Coded(2, 2, "int4")), tmp_path / "a")
    del REGISTERED["Coded"]
    with pytest.raises(ValueError, match="0 is a Coded, which is not registered here; known: "):
        load(nn.Sequential(nn.Identity()), tmp_path / "a")


@pytest.mark.usefixtures("_registered")
def test_register_refuses_what_cannot_work() -> None:
    with pytest.raises(TypeError, match="cls: Linear has no property `quantization`"):
        register(nn.Linear)
    other = type("Coded", (Coded,), {})
    with pytest.raises(ValueError, match="cls: 'Coded' is registered for another class"):
        register(other)
    assert register(Coded) is Coded


@pytest.mark.usefixtures("_registered")
def test_what_a_class_trains_can_have_a_form_of_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coded, "to_inference", lambda self: InferenceLinear.from_linear(self.inner), raising=False)
    export(nn.Sequential(Coded(2, 3, "int4")), tmp_path / "a")
    again = load(nn.Sequential(nn.Identity()), tmp_path / "a")
    assert (type(again[0]).__name__, again[0].out_features) == ("InferenceLinear", 3)


def test_a_class_can_wrap_the_module_in_whose_place_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module, factor: float) -> None:
            super().__init__()
            self.inner, self.factor = inner, factor
            self.more = nn.Parameter(torch.zeros(3))

        @classmethod
        def from_place(cls, place: nn.Module, factor: float) -> nn.Module:
            return cls(place, factor)

        @property
        def quantization(self) -> dict[str, Any]:
            return {"factor": self.factor}

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * self.factor + self.more

    monkeypatch.setitem(REGISTERED, "Wrapped", Wrapped)
    torch.manual_seed(0)
    model = nn.Sequential(Wrapped(InferenceLinear.from_linear(nn.Linear(8, 3), "nf4/1x8", double_scale=True), 0.5))
    model[0].more.data += 2.0
    export(model, tmp_path / "a")
    again = load(nn.Sequential(nn.Linear(8, 3)), tmp_path / "a")
    assert torch.equal(again(torch.ones(8)), model(torch.ones(8)))
