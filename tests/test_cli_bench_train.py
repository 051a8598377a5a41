"""`narrowgauge bench train`: its table, its JSON, its exit status."""

from __future__ import annotations

import argparse
import json

import pytest

from narrowgauge.bench import train_step
from narrowgauge.commands import bench_train

SMALL = ("--width", "64", "--layers", "1", "--batch", "1", "--tokens", "16", "--recipe", "fp8_row", "--no-peers")


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    bench_train.add_parser(parser.add_subparsers())
    args = parser.parse_args(["train", *words])
    return args.run(args)


def test_table_and_file_have_the_rows(tmp_path, capsys) -> None:
    assert run(*SMALL, "--out", str(tmp_path / "step.json")) == 0
    out = capsys.readouterr().out
    assert out.startswith("train: width 64, layers 1")
    assert "gradient dB" in out
    content = json.loads((tmp_path / "step.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["fp32", "fp8_row"]


def test_wrong_results_have_no_speed(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def wrong(op, device) -> None:
        raise AssertionError("scaled_gemm: off by one")

    monkeypatch.setattr(train_step, "check_samples", wrong)
    assert run(*SMALL) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "scaled_gemm: off by one" in err
