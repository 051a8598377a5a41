"""Codes in files are measured as the values that they decode to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import narrowgauge as ng
from narrowgauge.nn import recipe
from narrowgauge.nn.files import export, load_tensors
from narrowgauge.numerics import from_checkpoint
from narrowgauge.numerics.sweeps.report import report

TURNED = recipe("turned", x_fprop="int8/row+rht32", w_fprop="nvfp4+rht32")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.ModuleDict({"wide": nn.Linear(72, 300), "image": nn.Conv2d(4, 6, 3, groups=2), "norm": nn.LayerNorm(72)})
    ng.convert(model, TURNED, layers=("linear", "conv"))
    export(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_values_are_those_of_load_tensors_as_matrices(file: Path) -> None:
    expected = load_tensors(file)
    source = from_checkpoint(file)
    assert [(info.name, info.shape, info.dtype) for info in source.infos] == [
        ("image.weight", (6, 18), "float32"), ("wide.weight", (300, 72), "float32")
    ]  # fmt: skip
    for tensor in source:
        np.testing.assert_array_equal(tensor.values, expected[tensor.info.name].flatten(1).numpy())
    assert set(source.left_out) == {"image.bias", "norm.bias", "norm.weight", "wide.bias"}


def test_large_ones_are_decoded_by_rows(file: Path) -> None:
    whole = load_tensors(file)["wide.weight"].numpy()
    (tensor,) = from_checkpoint(file, limit=72 * 50, filter_fn=lambda info: info.name == "wide.weight")
    assert tensor.info.sample == "50 of 300 rows"
    start = next(row for row in range(300) if np.array_equal(whole[row], tensor.values[0]))
    np.testing.assert_array_equal(tensor.values, whole[start : start + 50])


def test_a_report_measures_them(file: Path) -> None:
    found = report(from_checkpoint(file), ["nvfp4", "e4m3fn/row"])
    assert "wide.weight" in str(found)


def test_a_damaged_description_is_refused(file: Path) -> None:
    with safe_open(file, framework="np") as reader:
        metadata = reader.metadata()
    changed = {**metadata, "narrowgauge-model": metadata["narrowgauge-model"].replace("nvfp4", "mxfp4")}
    save_file(load_file(file), file, metadata=changed)
    with pytest.raises(ValueError, match="is damaged: its description does not have the SHA-256"):
        from_checkpoint(file)
