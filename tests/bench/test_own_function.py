"""A user's kernel is found, called as promised, and held to what the scheme allows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from narrowgauge.bench.gemm_check import check_product
from narrowgauge.bench.gemm_inputs import Inputs
from narrowgauge.bench.model_shapes import Problem
from narrowgauge.bench.own_function import OwnFunction, gemm_makers, load_function
from narrowgauge.kernels import quantize

SOURCE = """
import torch
def product(x, w):
    return x @ w.t()
class Kernels:
    @staticmethod
    def inner(x, w):
        return torch.zeros(x.shape[0], w.shape[0])
number = 3
"""
PAIRS = [("e4m3fn/row", "e4m3fn/row"), ("int8/row", "int8/row")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ng_test_kernels.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "broken.py").write_text("import ng_no_such_package", encoding="utf-8")
    (tmp_path / "worse.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("ng_test_kernels", None)


@pytest.mark.parametrize("place", ["ng_test_kernels", "ng_test_kernels.py", "{}/ng_test_kernels.py"])
def test_a_function_of_a_module_or_a_file(folder: Path, place: str) -> None:
    own = load_function(f"{place.format(folder)}:product")
    assert torch.equal(own.function(torch.eye(2), torch.eye(2)), torch.eye(2))
    assert not own.takes_codes
    assert load_function(f"{place.format(folder)}:Kernels.inner", takes_codes=True).takes_codes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("product", "fn: got 'product', accepted: module:function or file.py:function"),
        (":product", "accepted: module:function"),
        ("ng_test_kernels:", "accepted: module:function"),
        ("ng_test_kernels:sum", "ng_test_kernels has no function sum"),
        ("ng_test_kernels:number", "has no function number"),
        ("ng_nowhere:f", "ng_nowhere does not load: ModuleNotFoundError"),
        ("nowhere.py:f", "nowhere.py does not load: FileNotFoundError"),
        ("broken.py:f", "broken.py does not load: .*ng_no_such_package"),
        ("worse.py:f", "worse.py does not load: ZeroDivisionError"),
    ],
)
def test_mistakes_are_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_function(text)


@pytest.fixture
def inputs() -> Inputs:
    return Inputs(Problem("p", 24, 32, 256), "cpu", torch.float32, seed=0)


def error_of(make, inputs: Inputs) -> float:
    racer = make(inputs)
    return check_product(racer.call(), racer.operands, 256, racer.rounding)


def test_values_are_held_to_the_first_scheme(inputs: Inputs) -> None:
    def row_wise(x, w):
        return quantize(x, "e4m3fn/row").dequantize() @ quantize(w, "e4m3fn/row").dequantize().t()

    def coarse(x, w):
        return quantize(x, "e5m2/row").dequantize() @ quantize(w, "e5m2/row").dequantize().t()

    makers = gemm_makers([OwnFunction("a:row", row_wise), OwnFunction("a:coarse", coarse)], PAIRS, ("float32",))
    assert list(makers) == ["a:row", "a:coarse"]
    assert 0.01 < error_of(makers["a:row"], inputs) < 0.05
    with pytest.raises(AssertionError, match=r"errs by|out of bound"):
        error_of(makers["a:coarse"], inputs)


def test_codes_are_held_to_every_scheme(inputs: Inputs) -> None:
    def decoded(x_codes, x_scale, w_codes, w_scale):
        assert x_codes.shape == (24, 256)
        assert w_scale.shape == (32, 1)
        x, w = (codes if codes.dtype == torch.int8 else codes.view(torch.float8_e4m3fn) for codes in (x_codes, w_codes))
        return (x.float() * x_scale) @ (w.float() * w_scale).t()

    makers = gemm_makers([OwnFunction("a:decoded", decoded, takes_codes=True)], PAIRS, ("float32",))
    assert list(makers) == ["a:decoded e4m3fn/row", "a:decoded int8/row"]
    assert all(error_of(make, inputs) < 1e-5 for make in makers.values())
    assert makers["a:decoded int8/row"](inputs).bytes < 4 * inputs.x.nbytes
