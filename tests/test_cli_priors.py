"""`narrowgauge priors report`: table on stdout, JSON, page and picture."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from narrowgauge.cli import main
from narrowgauge.kernels import quantize
from narrowgauge.nn.files import save_tensors
from narrowgauge.priors import GeneralizedGaussian, fit
from narrowgauge.train import Llama, LlamaConfig


@pytest.fixture
def file(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "mlp.weight": GeneralizedGaussian(0.8, 0.02).sample((64, 100), generator=generator),
        "attn.weight": GeneralizedGaussian(2.0, 0.02).sample((50, 100), generator=generator),
        "norm.weight": torch.ones(100),
        "steps": torch.tensor(3),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main(["priors", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def names(out: str) -> list[str]:
    return [layer["name"] for layer in json.loads(out)["layers"]]


def test_the_table_has_a_line_for_each_matrix(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "report", file)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["tensor", "size", "shape", "scale"]
    assert lines[2].split()[:2] == ["attn.weight", "50x100"]
    assert lines[3].split()[:2] == ["mlp.weight", "64x100"]
    assert "all tensors as one sample: shape" in out
    assert lines[-1] == "left out: 1 × a vector"


def test_json_has_the_fits_in_full(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "report", file, "--json", "--method", "mle")
    assert status == 0
    found = json.loads(out)
    generator = torch.Generator().manual_seed(0)
    expected = fit(GeneralizedGaussian(0.8, 0.02).sample((64, 100), generator=generator), "mle")
    layer = found["layers"][1]
    assert layer["models"]["generalized"]["shape"] == pytest.approx(expected.shape)
    assert layer["models"].keys() == {"generalized", "gaussian", "laplace"}
    assert layer["models"]["gaussian"]["kl_bits"] > layer["models"]["generalized"]["kl_bits"]
    assert layer["best"] == "generalized"
    assert found["left_out"] == {"norm.weight": "a vector"}
    assert found["pooled"]["shape"] < found["matrices"]["shape"]


def test_what_is_reported_can_be_chosen(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert names(run(capsys, "report", file, "--json", "--only", "mlp")[1]) == ["mlp.weight"]
    assert "norm.weight" in names(run(capsys, "report", file, "--json", "--all")[1])
    layer = json.loads(run(capsys, "report", file, "--json", "--sample", "1000")[1])["layers"][0]
    assert layer["count"] == 1000
    assert layer["shape"] == [50, 100]


def test_codes_are_reported_as_what_they_decode_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    w = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    save_tensors({"w": quantize(w, "mxfp8")}, tmp_path / "codes.safetensors")
    layer = json.loads(run(capsys, "report", tmp_path / "codes.safetensors", "--json")[1])["layers"][0]
    assert layer["models"]["generalized"]["shape"] == pytest.approx(fit(w).shape, abs=0.05)


def test_the_folder_of_a_run_and_its_settings_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text('model = "tiny"\nseed = 3\n')
    first = json.loads(run(capsys, "report", tmp_path / "run.toml", "--json")[1])
    model = Llama(LlamaConfig.preset("tiny"), seed=3)
    assert first["layers"][0]["models"]["generalized"]["shape"] == pytest.approx(fit(model.embed_tokens.weight).shape)
    out = tmp_path / "run"
    words = ["train", "--model", "tiny", "--steps", "1", "--out", str(out), "--seq-len", "16", "--save-every", "1"]
    assert main(words) == 0
    capsys.readouterr()
    assert len(names(run(capsys, "report", out, "--json")[1])) == len(first["layers"])


def test_page_and_picture_are_written(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, picture = tmp_path / "out" / "r.html", tmp_path / "out" / "r.png"
    status, _, err = run(capsys, "report", file, "--html", page, "--plot", picture)
    assert status == 0
    assert err.splitlines() == [f"written: {page}", f"written: {picture}"]
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "mlp.weight" in text
    assert "http" not in text.replace("http-equiv", "")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_a_way_out(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    status, out, err = run(capsys, "report", file, "--plot", "x.png")
    assert (status, out) == (2, "")
    assert "needs matplotlib, which is not installed: pip install 'narrowgauge[plots]'" in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere.safetensors"], "path: no file or folder at nowhere.safetensors"),
        (["{file}", "--only", "nothing"], "only: no tensor's name contains nothing"),
        (["{file}", "--method", "mse"], "method: got 'mse', accepted: ratio, mle"),
        (["{file}", "--step", "0"], "step: got 0.0"),
        (["{file}", "--sample", "none"], "sample: got 'none'"),
        (["{file}", "--only", "norm"], "model: no tensor to report among 1; the first: norm.weight (a vector)"),
    ],
)
def test_mistakes_are_one_line(file: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "report", *(word.format(file=file) for word in words))
    assert status == 2
    assert err.startswith("narrowgauge priors: ")
    assert text in err
    assert len(err.splitlines()) == 1


def test_help_names_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["priors", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(action in out for action in ("report", "deepshape", "rf8"))
