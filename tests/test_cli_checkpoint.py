"""`narrowgauge checkpoint show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from narrowgauge.cli import main
from narrowgauge.kernels import quantize
from narrowgauge.nn.files import describe, save_tensors


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_tensors({"w": quantize(torch.ones(4, 64), "mxfp4"), "norm": torch.ones(64)}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_the_table_has_every_tensor_and_the_totals(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tensor", "scheme", "shape", "dtype", "bytes", "bits", "per", "value"]
    assert lines[3].split() == ["w", "mxfp4", "4x64", "float32", "136", "4.25"]
    assert lines[-1] == describe(file).totals()


def test_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == describe(file).to_dict() | {
        "tensors": json.loads(json.dumps(describe(file).to_dict()["tensors"]))
    }


def test_mistakes_are_one_line(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("narrowgauge checkpoint: path: no file at")
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["checkpoint", "show", str(file)]) == 2
    assert "is no safetensors file, or damaged" in capsys.readouterr().err
