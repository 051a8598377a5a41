"""`narrowgauge compress` and `narrowgauge decompress`."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from narrowgauge.cli import build_parser, main
from narrowgauge.kernels import quantize
from narrowgauge.nn.files import load_tensors, save_tensors

DOCS = Path(__file__).parents[1] / "docs" / "compression.md"
MODEL = {
    "w": 0.05 * torch.randn(64, 48, generator=torch.Generator().manual_seed(0)),
    "norm": torch.linspace(0.5, 1.5, 48),
}


@pytest.fixture
def file(tmp_path):
    save_file(MODEL, tmp_path / "m.safetensors", metadata={"format": "pt", "made by": "a test"})
    return tmp_path / "m.safetensors"


def run(capsys, *words):
    status = main([str(word) for word in words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], (MODEL["w"] * 256).round() / 256),
        (["--step-bits", "5", "--coder", "rans"], (MODEL["w"] * 32).round() / 32),
        (["--coder", "exp-golomb", "--order", "2"], (MODEL["w"] * 256).round() / 256),
        (["--scheme", "rf8/row"], quantize(MODEL["w"], "rf8/row").dequantize()),
        (["--lossless"], MODEL["w"]),
    ],
)
def test_there_and_back(file, tmp_path, capsys, flags, expected):
    status, out, _ = run(capsys, "compress", file, tmp_path / "m.ngz", *flags)
    assert status == 0
    assert out.splitlines()[0].split()[:2] == ["tensor", "coded"]
    assert "2 tensors, 3,120 parameters" in out.splitlines()[-1]
    status, out, _ = run(capsys, "decompress", tmp_path / "m.ngz", tmp_path / "back.safetensors")
    assert (status, "2 tensors, 3,120 parameters" in out) == (0, True)
    found = load_file(tmp_path / "back.safetensors")
    assert torch.equal(found["w"], expected)
    assert torch.equal(found["norm"], MODEL["norm"])
    with safe_open(tmp_path / "back.safetensors", framework="pt") as reader:
        assert reader.metadata() == {"format": "pt", "made by": "a test"}


def test_norms_go_along_with_all(file, tmp_path, capsys):
    assert run(capsys, "compress", file, tmp_path / "m.ngz", "--step-bits", "2", "--all")[0] == 0
    assert run(capsys, "decompress", tmp_path / "m.ngz", tmp_path / "b", "--names", "norm")[0] == 0
    assert torch.equal(load_file(tmp_path / "b")["norm"], (MODEL["norm"] * 4).round() / 4)
    assert list(load_file(tmp_path / "b")) == ["norm"]


def test_json(file, tmp_path, capsys):
    _, out, _ = run(capsys, "compress", file, tmp_path / "m.ngz", "--json")
    found = json.loads(out)
    assert [row["name"] for row in found["tensors"]] == ["norm", "w"]
    assert found["nbytes"] == (tmp_path / "m.ngz").stat().st_size
    _, out, _ = run(capsys, "decompress", tmp_path / "m.ngz", tmp_path / "b", "--json")
    assert json.loads(out)["parameters"] == 3120


def test_a_folder(file, tmp_path, capsys):
    save_file({"other": torch.ones(2, 2)}, tmp_path / "n.safetensors")
    assert run(capsys, "compress", tmp_path, tmp_path / "m.ngz")[0] == 0
    assert run(capsys, "decompress", tmp_path / "m.ngz", tmp_path / "b")[0] == 0
    assert set(load_file(tmp_path / "b")) == {"w", "norm", "other"}


def test_an_exported_file_is_coded_without_a_change(tmp_path, capsys):
    exported = tmp_path / "e.safetensors"
    save_tensors({"w": quantize(MODEL["w"], "int8/row"), "norm": MODEL["norm"]}, exported)
    status, _, err = run(capsys, "compress", exported, tmp_path / "m.ngz")
    assert (status, "--lossless" in err) == (2, True)
    assert run(capsys, "compress", exported, tmp_path / "m.ngz", "--lossless")[0] == 0
    assert run(capsys, "decompress", tmp_path / "m.ngz", tmp_path / "b.safetensors")[0] == 0
    for name, tensor in load_tensors(exported).items():
        assert torch.equal(load_tensors(tmp_path / "b.safetensors")[name], tensor)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.safetensors", "m.ngz"], "model: no file at"),
        (["m.safetensors", "m.ngz", "--coder", "hufman"], "did you mean 'huffman'"),
        (["m.safetensors", "m.ngz", "--scheme", "rf9"], "rf9"),
        (["m.safetensors", "m.ngz", "--order", "3"], "order: got 3, accepted with exp-golomb alone"),
        (["m.safetensors", "m.ngz", "--coder", "exp-golomb", "--order", "99"], "order: got 99"),
        (["m.safetensors", "."], "is a folder"),
    ],
)
def test_mistakes_are_one_line(file, monkeypatch, capsys, words, message):
    monkeypatch.chdir(file.parent)
    status, out, err = run(capsys, "compress", *words)
    assert (status, out) == (2, "")
    assert err.startswith("narrowgauge compress: ")
    assert message in err
    assert err.count("\n") == 1


def test_damage_and_wrong_names_are_one_line(file, tmp_path, capsys):
    path = tmp_path / "m.ngz"
    run(capsys, "compress", file, path)
    status, _, err = run(capsys, "decompress", path, tmp_path / "b", "--names", "v")
    assert (status, "no tensor 'v'" in err, err.count("\n")) == (2, True, 1)
    assert run(capsys, "decompress", path, tmp_path)[0] == 2
    path.write_bytes(path.read_bytes()[:-1])
    status, _, err = run(capsys, "decompress", path, tmp_path / "b")
    assert (status, "is damaged" in err, err.count("\n")) == (2, True, 1)
    assert run(capsys, "decompress", file, tmp_path / "b")[2].count("is no compressed model") == 1
    assert not (tmp_path / "b").exists()


def test_commands_of_the_docs_exist():
    (block,) = re.findall(r"```sh\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines():
        assert build_parser().parse_known_args(line.split("#")[0].split()[1:])[1] == []


def test_the_first_example_of_the_docs_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example, _ = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    model = torch.nn.ModuleDict({"lm_head": torch.nn.Linear(8, 4)})
    exec(compile(example, DOCS.name, "exec"), {"model": model, "integers": torch.arange(9).numpy()})
    assert capsys.readouterr().out.startswith("2 tensors, 36 parameters")
