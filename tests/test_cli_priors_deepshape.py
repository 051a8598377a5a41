"""`narrowgauge priors deepshape`: what it shows and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from narrowgauge.cli import main
from narrowgauge.priors import GeneralizedGaussian
from narrowgauge.priors.deepshape import deepshape


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["priors", "deepshape", *words])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    weight = GeneralizedGaussian.from_std(1.36, 0.04).sample((400, 500), generator=generator)
    tensors = {"up.weight": weight, "norm.weight": torch.ones(500).bfloat16(), "steps": torch.arange(3)}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, {"written_by": "a test"})
    return path


def test_it_shows_and_writes_what_the_function_does(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = file.with_name("reshaped.safetensors")
    words = ("--method", "quantile", "--per-tensor", "--matrices-only", "--strength", "0.5", "--std-scale", "0.8")
    status, out, err = run(capsys, str(file), str(target), *words)
    before, after = load_file(file), load_file(target)
    expected, report = deepshape(before["up.weight"], method="quantile", strength=0.5, std_scale=0.8)
    assert status == 0
    assert torch.equal(after["up.weight"], expected)
    assert torch.equal(after["norm.weight"], before["norm.weight"])
    assert torch.equal(after["steps"], before["steps"])
    with safe_open(target, "pt") as reader:
        assert reader.metadata() == {"written_by": "a test"}
    assert f"written: {target}" in err
    row = next(line.split() for line in out.splitlines() if line.startswith("up.weight"))
    assert row[1] == "200,000"
    assert float(row[-1]) == pytest.approx(report.after.entropy, abs=6e-4)


def test_json_of_the_published_method(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(run(capsys, str(file), "--matrices-only", "--json")[1])
    (group,) = content["groups"]
    assert content["method"] == "published"
    assert group["edge"] > 500
    assert content["after"]["exp_golomb"]["0"] < content["before"]["exp_golomb"]["0"] - 0.5
    assert not list(file.parent.glob("reshaped*"))


def test_mistakes_are_told(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, integers = file.with_name("broken.safetensors"), file.with_name("integers.safetensors")
    broken.write_bytes(b"no tensors")
    save_file({"steps": torch.arange(3)}, integers)
    for words, message in (
        ((str(file.with_name("weights.pt")),), "FILE: got "),
        ((str(broken),), "cannot be read as safetensors"),
        ((str(file), "--per-tensor"), "norm.weight"),
        ((str(integers),), "has no weights to reshape among 1 tensors"),
        ((str(file), "--strength", "2"), "strength: got 2.0, accepted: 0"),
    ):
        status, out, err = run(capsys, *words)
        assert (status, out) == (2, "")
        assert message in err
