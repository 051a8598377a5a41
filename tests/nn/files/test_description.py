"""`describe`: sizes, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

import narrowgauge as ng
from narrowgauge.kernels import quantize
from narrowgauge.nn.files import describe, export, save_tensors


def test_sizes_are_those_of_the_parts(tmp_path: Path) -> None:
    tensors = {"w.10": torch.ones(3, dtype=torch.float16), "w.9": quantize(torch.randn(8, 128).bfloat16(), "nvfp4")}
    save_tensors(tensors, tmp_path / "a")
    found = describe(tmp_path / "a")
    nine, ten = found.rows
    assert (nine.name, nine.scheme, nine.shape, nine.dtype) == ("w.9", "nvfp4", (8, 128), "bfloat16")
    assert (nine.bytes, nine.bytes_before) == (8 * 64 + 8 * 8 + 4, 2 * 8 * 128)
    assert nine.bits_per_value == 4 + 0.5 + 32 / 1024
    assert (ten.scheme, ten.bytes, ten.bits_per_value) == ("", 6, 16)
    assert (found.bytes, found.bytes_before) == (nine.bytes + 6, nine.bytes_before + 6)
    assert found.file_bytes == (tmp_path / "a").stat().st_size
    assert "3.51 times smaller" in str(found)


def test_the_table_and_the_dict(tmp_path: Path) -> None:
    model = nn.ModuleDict(
        {"embed": nn.Embedding(16, 32), "up": nn.Linear(32, 8), "head": nn.Linear(32, 16, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    ng.convert(model, "fp8_row", skip=("head",))
    export(model, tmp_path / "a")
    lines = str(describe(tmp_path / "a")).splitlines()
    assert lines[0].split() == ["tensor", "scheme", "shape", "dtype", "bytes", "bits", "per", "value"]
    assert lines[2].split() == ["head.weight", "-", "16x32", "float32", "tied", "to", "embed.weight", "-"]
    assert lines[4].split() == ["up.weight", "e4m3fn/row", "8x32", "float32", "288", "9"]
    assert lines[-1].startswith("4 tensors, 1 quantised modules; 3,104 bytes in their own dtypes, 2,368 stored")
    content = json.loads(json.dumps(describe(tmp_path / "a").to_dict()))
    assert [row["bits_per_value"] for row in content["tensors"]] == [32, None, 32, 9]
    export(model, tmp_path / "a", weights=None)
    assert "recipes: fp8_row" in str(describe(tmp_path / "a"))


def test_empty_tensors_have_no_bits_per_value(tmp_path: Path) -> None:
    save_tensors({"x": torch.ones(0, 3), "s": torch.ones(())}, tmp_path / "a")
    scalar, empty = describe(tmp_path / "a").cells()
    assert scalar == ("s", "-", "scalar", "float32", "4", "32")
    assert empty == ("x", "-", "0x3", "float32", "0", "-")
