"""`narrowgauge bench gemm`: flags, tables, JSON and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrowgauge.bench import gemm
from narrowgauge.bench.ceilings import Probes
from narrowgauge.cli import main

WORDS = ["bench", "gemm", "--shape", "8x16x128", "--scheme", "e4m3fn/row", "--weight-scheme", "int4/1x128"]
KERNELS = """
import torch
def right(x, w):
    return x @ w.t()
def wrong(x, w):
    return torch.zeros(x.shape[0], w.shape[0])
def of_codes(x, x_scale, w, w_scale):
    return (x.view(torch.float8_e4m3fn).float() * x_scale) @ (w.view(torch.float8_e4m3fn).float() * w_scale).t()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gemm, "check_samples", lambda op, device, select: 1)
    monkeypatch.setattr(gemm, "Probes", lambda device: Probes(device, size=32, copy_bytes=4096))
    (tmp_path / "ng_cli_kernels.py").write_text(KERNELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def test_table_of_each_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--shape", "1x16x64", "--quantize"]) == 0
    text = capsys.readouterr().out
    for word in ("8x16x128\n", "1x16x64\n", "GFLOP/s", "% of peak", "× torch.mm", "quantize + scaled_gemm e4m3fn/row",
                 "weight_only_gemm int4/1x128", "torch._int_mm", "ceilings", "not timed: DeepGEMM"):  # fmt: skip
        assert word in text, word


def test_layers_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--model",
        "qwen3-30b-a3b",
        "--layer",
        "expert_down",
        "--tokens",
        "256",
        "--pass",
        "dgrad",
        "--divide",
        "8",
    ]
    words += ["--scheme", "int8/row", "--weight-scheme", "int8/row", "--no-peers", "--json"]
    words = ["bench", "gemm", *words]
    assert main(words) == 0
    content = json.loads(capsys.readouterr().out)
    assert [(p["m"], p["n"], p["k"]) for p in content["settings"]["problems"]] == [(16, 96, 256)]
    assert content["ceilings"]["copy_gb_per_s"] > 0


def test_own_functions_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gemm.json"
    own = ["--fn", "ng_cli_kernels.py:right", "--fn-codes", "ng_cli_kernels.py:of_codes"]
    assert main([*WORDS, *own, "--no-peers", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "ng_cli_kernels.py:of_codes e4m3fn/row" in text
    names = [row["name"] for row in json.loads(out.read_text(encoding="utf-8"))["rows"]]
    assert "8x16x128: ng_cli_kernels.py:right" in names


def test_a_wrong_function_is_not_timed_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--fn", "ng_cli_kernels.py:wrong", "--no-peers"]) == 1
    text = capsys.readouterr().out
    assert "wrong, so not timed: 8x16x128: ng_cli_kernels.py:wrong (" in text
    assert "scaled_gemm e4m3fn/row" in text


def test_a_wrong_operator_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(op, device, select) -> None:
        raise AssertionError(f"{op.name}: 1 of 6 elements are out of bound")

    monkeypatch.setattr(gemm, "check_samples", wrong)
    assert main(WORDS) == 1
    assert "its speed is not reported" in capsys.readouterr().err


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main([*WORDS, "--no-peers", "--plot", str(tmp_path / "roofline.svg")]) == 0
    assert (tmp_path / "roofline.svg").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "8x8"], "accepted: MxNxK"),
        (["--model", "gpt2"], "model: got 'gpt2'"),
        (["--scheme", "e4m3fn/row+sr"], "round to nearest"),
        (["--weight-scheme", "e9m9"], "e9m9"),
        (["--fn", "ng_cli_kernels.py:nothing"], "has no function nothing"),
        (["--shape", "8x8x8", "--layer", "down"], "layers: is of the layers of a model"),
        (["--shape", "8x8x8", "--repetitions", "3"], "repetitions"),
    ],
)
def test_mistakes_end_with_2_and_a_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gemm", *words]) == 2
    assert message in capsys.readouterr().err
