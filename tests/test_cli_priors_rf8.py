"""`narrowgauge priors rf8`: tables, JSON, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrowgauge.cli import main

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--shapes", "0.3", "2", "--rows", "16", "--seeds", "1")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["priors", "rf8", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_tables_and_where_rf8_is_above(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, *QUICK, "--scaling", "tensor")
    assert status == 0
    heads = out.splitlines()[1].split()
    assert heads == ["0.3", "2"]
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[3:13]}
    assert 27 < float(rows["rf8"][0]) < 29
    assert rows["int8"][1].endswith("*")
    assert "  SQNR of rf8 above that of e5m2: everywhere" in out
    assert "  SQNR of rf8 above that of int8: at shape 0.3\n" in out
    assert "  SQNR of rf8 above that of e4m3fn: nowhere" in out


def test_other_measures(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, *QUICK, "--scaling", "tensor", "--formats", "e4m3fn", "int8", "--measure", "flushed")[1]
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[3:6]}
    assert rows["e4m3fn"][0].endswith("*")
    assert 0.4 < float(rows["int8"][0]) < 1
    assert float(rows["rf8"][0]) < 0.1


def test_json_and_files_hold_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out_file, picture = tmp_path / "new" / "rf8.json", tmp_path / "rf8.svg"
    words = ("--formats", "e4m3fn", "int8", "--out", str(out_file), "--plot", str(picture), "--json")
    _, out, err = run(capsys, *QUICK, *words)
    content = json.loads(out)
    assert json.loads(out_file.read_text(encoding="utf-8")) == content
    assert f"written: {picture}" in err
    assert b"<svg" in picture.read_bytes()[:1000]
    assert content["settings"]["formats"] == ["rf8", "e4m3fn", "int8"]
    assert len(content["by_shape"]) == 2 * (3 * 3 + 2)
    assert {row["shape"] for row in content["by_std"]} == {1.0, 2.0}
    assert {row["scaling"] for row in content["by_std"]} == {"none"}


def test_what_cannot_be_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in ((("--rows", "0"), "--rows: got 0"), (("--formats", "e4m3z"), "unknown name 'e4m3z'")):
        status, out, err = run(capsys, *QUICK, *words)
        assert (status, out) == (2, "")
        assert message in err


def test_the_committed_result_says_what_the_documentation_says() -> None:
    content = json.loads((ROOT / "bench/results/rf8.json").read_text(encoding="utf-8"))
    scaled = [v for v in content["verdicts"]["by_shape"] if v["scaling"] != "none"]
    assert all("e5m2" in v["beats"] and "e4m3fn" in v["loses_to"] for v in scaled)
    direct = [v for v in content["verdicts"]["by_std"] if 2.0**-13 <= v["std"] <= 2.0**-7]
    assert all(v["loses_to"] == [] for v in direct)
    assert (ROOT / "bench/results/rf8.png").stat().st_size > 10_000
