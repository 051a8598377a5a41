"""`narrowgauge bench optim`: flags, tables, JSON and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrowgauge.bench import optim_quality
from narrowgauge.bench.optim_quality import QualityResult, run_quality
from narrowgauge.bench.optim_quality.table import Line
from narrowgauge.cli import main
from narrowgauge.commands.bench_optim import print_quality


@pytest.fixture(scope="module")
def result() -> QualityResult:
    return run_quality(["log8", "fp32"], quick=True)


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch, result: QualityResult) -> None:
    monkeypatch.setattr(optim_quality, "run_quality", lambda *args, **options: result)


def test_tables_have_every_codec_its_expected_figure_and_the_verdicts(
    result: QualityResult, capsys: pytest.CaptureFixture[str]
) -> None:
    print_quality(result)
    text = capsys.readouterr().out
    assert "COAT, released kernel" in text
    assert "2.19 (2.19)" in text
    assert "nan!" in text
    assert "vectors and promises hold" in text
    assert any("log8" in line and "ours" in line for line in text.splitlines())


def test_quality_writes_json_and_ends_with_0(no_run: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "quality.json"
    assert main(["bench", "optim", "--quality", "--quick", "--json", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads(out.read_text(encoding="utf-8"))
    assert printed["suite"] == written["suite"] == "optim quality"
    assert written["written"]


def test_a_line_that_fails_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, result: QualityResult, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = QualityResult(result.subjects, (), [Line("log8: zeros", False, "not zero")], (), result.settings)
    monkeypatch.setattr(optim_quality, "run_quality", lambda *args, **options: failing)
    assert main(["bench", "optim", "--quality"]) == 1
    assert "FAILS" in capsys.readouterr().out


def test_speed_prints_what_was_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "optim", "--parameters", "50000", "--state", "fp32", "--no-compiled", "--no-peers"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "state B / parameter" in text
    assert "not timed: fp32, compiled (left out as asked)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--state", "log9"], "log9"),
        (["--quality", "--quick", "--state", "log9"], "log9"),
        (["--quick"], "--quick goes with --quality"),
        (["--parameters", "5"], "parameters: expected at least 50000"),
    ],
)
def test_mistakes_end_with_2_and_a_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "optim", *words]) == 2
    assert message in capsys.readouterr().err
