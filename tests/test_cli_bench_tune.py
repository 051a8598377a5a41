"""`narrowgauge bench tune` as a user meets it."""

from __future__ import annotations

import json

import pytest

from narrowgauge.cli import main


def test_the_table_says_that_nothing_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tune", "--target", "sm_90", "--tokens", "16"]) == 0
    shown = capsys.readouterr().out
    assert "llama3-8b qkv 16x6144x4096" in shown
    assert "no measurements" in shown


def test_json_lists_every_launch(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "qwen3-8b", "--tokens", "1", "--pass", "wgrad", "--scheme", "mxfp8", "--json"]
    assert main(["bench", "tune", "--target", "gfx950", *flags]) == 0
    launches = json.loads(capsys.readouterr().out)
    assert {launch["how"] for launch in launches} == {"model"}
    assert all("wgrad" in launch["problem"] and launch["schemes"] == "mxfp8" for launch in launches)


def test_without_a_place_it_says_which_flags_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["bench", "tune"])
    assert refused.value.code == 2
    assert "--target --device" in capsys.readouterr().err


@pytest.mark.parametrize("suite", ["quantize", "formats", "gemm", "linear", "activation", "train", "optim", "tune"])
@pytest.mark.parametrize("device", ["cuda:99", "abacus", "meta"])
def test_a_device_that_is_not_there_is_one_line(suite: str, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", suite, "--device", device]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"device: got '{device}', accepted here: cpu" in line
