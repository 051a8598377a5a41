"""`narrowgauge bench quantize` and `linear`: what their flags do, and what a wrong function is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrowgauge.cli import build_parser, main
from narrowgauge.commands import bench_compare, bench_linear, bench_quantize, bench_train

QUICK = ("--no-peers", "--no-compiled", "--repetitions", "9")
MODULE = """
import torch

def right(x):
    scale = x.float().abs().amax(dim=1, keepdim=True) / 448.0
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale

def zeros(x):
    return torch.zeros(x.shape, dtype=torch.uint8), torch.zeros(x.shape[0], 1)

kept = []

def caching(x):
    kept.append(right(x))
    return kept[0]

def gaps(x):
    codes = torch.empty(x.shape, dtype=torch.uint8)
    codes[:-1] = right(x)[0].view(torch.uint8)[:-1]
    return codes, right(x)[1]
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MODULE)
    return str(path)


def test_shapes_schemes_ops_and_dtypes_are_taken(capsys) -> None:
    words = ("--shape", "4x32", "--shape", "2x64", "--scheme", "mxfp8", "--op", "quantize", "--op", "dequantize")
    assert main(["bench", "quantize", *words, "--dtype", "bfloat16", *QUICK, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in content["rows"]] == [
        f"{shape}: {name}"
        for shape in ("4x32", "2x64")
        for name in ("clone", "copy_", "mxfp8_e4m3", "dequantize mxfp8_e4m3")
    ]
    assert content["settings"]["dtype"] == "bfloat16"


def test_a_function_stands_in_the_table(module: str, capsys) -> None:
    assert main(["bench", "quantize", "--shape", "16x32", "--fn", f"{module}:right", *QUICK]) == 0
    out = capsys.readouterr().out
    assert f"16x32: e4m3fn/row by {module}:right" in out
    assert "same codes %" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [("zeros", "scale: 16 of 16 are wrong"), ("caching", "scale: 16 of 16 are wrong"),
     ("gaps", "codes: 32 of 512 are wrong; first at (15, 0): got 255")],
)  # fmt: skip
def test_wrong_functions_have_no_speed(module: str, capsys, name: str, message: str) -> None:
    assert main(["bench", "quantize", "--shape", "16x32", "--fn", f"{module}:{name}", *QUICK]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "its speed is not reported" in err
    assert message in err


def test_a_layer_is_drawn_below_its_roofs(tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "linear.svg"
    words = ("--shape", "8x16x32", "--recipe", "fp8_row", "--repetitions", "9", "--plot", str(picture))
    assert main(["bench", "linear", *words]) == 0
    assert picture.exists()
    out, err = capsys.readouterr()
    assert "8x16x32: fp8_row" in out
    assert "% of peak" in out
    assert "ceilings in this run: copy " in out
    assert f"written: {picture}" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("quantize", "--shape", "4"), "shape: got '4', accepted: MxK"),
        (("quantize", "--model", "llama9"), "model: got 'llama9'"),
        (("quantize", "--fn", "nowhere_at_all:f"), "fn: nowhere_at_all does not load"),
        (("linear", "--shape", "4x4"), "shape: got '4x4', accepted: MxNxK"),
        (("linear", "--shape", "2x2x2", "--recipe", "fp32", "--repetitions", "9", "--plot", "a.txt"), "end in .png"),
    ],
)
def test_mistakes_are_explained(words, message: str, capsys) -> None:
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [bench_quantize, bench_linear, bench_train, bench_compare], ids=lambda c: c.__name__
)
def test_examples_name_flags_that_exist(command) -> None:
    lines = [line.strip() for line in command.DESCRIPTION.splitlines()]
    examples = [line.partition(" #")[0].split() for line in lines if line.startswith("narrowgauge ")]
    assert len(examples) >= 3
    for example in examples:
        assert build_parser().parse_known_args(example[1:])[1] == []
