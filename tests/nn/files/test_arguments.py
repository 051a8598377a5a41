"""What the functions for files are given: swapped arguments, other things, folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.nn.files import describe, export, load, load_tensors, save_tensors
from narrowgauge.nn.files.arguments import named

MODEL: Any = nn.Linear(2, 2)
FILE: Any = "model.safetensors"
ODD: dict[str, tuple[Callable[[], object], str]] = {
    "export swapped": (
        lambda: export(FILE, MODEL),
        "model: .* got the path 'model.safetensors'; the model comes first",
    ),
    "export a state": (lambda: export(MODEL.state_dict(), FILE), "model: expected a torch.nn.Module, got OrderedDict"),
    "export twice a model": (lambda: export(MODEL, MODEL), "path: .* got the module Linear; the model comes first"),
    "export to a number": (lambda: export(MODEL, 3), "path: expected a string or a Path, got int"),
    "load swapped": (lambda: load(FILE, MODEL), "model: .* got the path 'model.safetensors'; the model comes first"),
    "load a number": (lambda: load(3, FILE), "model: expected a torch.nn.Module, got int"),
    "load from a model": (lambda: load(MODEL, MODEL), "path: .* got the module Linear"),
    "load_tensors": (lambda: load_tensors(MODEL), "path: .* got the module Linear"),
    "describe": (lambda: describe(None), "path: expected a string or a Path, got NoneType"),
    "save_tensors swapped": (lambda: save_tensors(FILE, {}), "tensors: expected a mapping .*, got str"),
    "save_tensors": (lambda: save_tensors({}, {}), "path: expected a string or a Path, got dict"),
}


@pytest.mark.parametrize("name", ODD)
def test_other_things_are_refused(name: str) -> None:
    call, text = ODD[name]
    with pytest.raises(TypeError, match=text):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda path: export(MODEL, path),
        lambda path: load(MODEL, path),
        load_tensors,
        describe,
        lambda path: save_tensors({"x": torch.ones(2)}, path),
    ],
)
def test_a_folder_is_refused(call: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, accepted: the path of a file"):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


def test_articles() -> None:
    assert [named(name) for name in ("InferenceLinear", "QuantLinear")] == ["an InferenceLinear", "a QuantLinear"]
    assert named(nn.Embedding) == "an Embedding"
