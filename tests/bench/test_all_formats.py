"""The suite `formats` covers every narrow format, checks all before it times any, and says what it leaves out."""

from __future__ import annotations

import json

import pytest
import torch

from narrowgauge import formats
from narrowgauge.bench import all_formats
from narrowgauge.bench.all_formats import narrow_formats, run_suite, scheme_text, served
from narrowgauge.cli import main

SOME = ["e4m3fn", "int4", "mxfp4", "nf4", "e8m0fnu"]


@pytest.fixture(scope="module")
def result():
    return run_suite(64, SOME)


def test_every_registered_format_of_at_most_eight_bits_is_covered() -> None:
    narrow = narrow_formats()
    assert {"e4m3fn", "e2m1fn", "int2", "nvfp4", "nf4", "rf8"} <= set(narrow)
    assert all(formats.get(name).bits <= 8 for name in narrow)
    assert not {"bf16", "int9", "dfp16"} & set(narrow)
    assert len(narrow) + sum(formats.get(name).bits > 8 for name in formats.names()) == len(formats.names())


def test_scales_are_for_rows_or_the_blocks_of_a_format() -> None:
    assert scheme_text("e4m3fn") == "e4m3fn/row"
    assert scheme_text("mxfp4") == "mxfp4"


def test_every_format_has_a_row_or_a_reason(result) -> None:
    own = [row.name for row in result.rows if " by " not in row.name]
    assert own == ["clone", "copy_", "e4m3fn/row", "int4/row", "mxfp4", "nf4/row"]
    assert "has no zero" in result.skipped["e8m0fnu"]
    assert result.settings["formats"] == 4


def test_peers_stand_beside_the_format_with_their_share(result) -> None:
    rows = {row.name: row for row in result.rows}
    assert rows["e4m3fn/row by ml_dtypes"].figures["codes_equal_percent"] == 100.0
    assert "e4m3fn/row by gfloat" in rows
    assert "int4/row by ml_dtypes" not in rows
    assert result.settings["ml_dtypes"]
    for row in rows.values():
        assert row.figures["milliseconds"] > 0
        assert row.note or " by " not in row.name


def test_the_ratio_is_to_a_copy(result) -> None:
    rows = {row.name: row for row in result.rows}
    assert rows["clone"].ratio == rows["copy_"].figures["times_copy"] == 1.0
    assert rows["e4m3fn/row by gfloat"].ratio > rows["e4m3fn/row by torch cast"].ratio


def test_without_peers_there_are_none() -> None:
    assert [row.name for row in run_suite(16, ["int8"], peers=False).rows] == ["clone", "copy_", "int8/row"]


def test_progress_is_told() -> None:
    seen = []
    run_suite(16, ["int8", "int4"], peers=False, progress=lambda *news: seen.append(news))
    assert seen == [(0, 2, "int8/row"), (1, 2, "int4/row")]


def test_a_format_that_no_kernel_serves_is_left_out_with_the_reason(monkeypatch) -> None:
    def refuse(x: object, spec: formats.Scheme) -> None:
        raise ValueError(f"device: no implementation of quantize on cpu for {spec}")

    monkeypatch.setattr(all_formats, "own_result", refuse)
    schemes, skipped = served(torch.zeros(2, 2), ["nf4"])
    assert schemes == []
    assert skipped == {"nf4": "device: no implementation of quantize on cpu for nf4/row"}


def test_all_wrong_formats_are_named_and_nothing_is_timed(monkeypatch, capsys) -> None:
    def wrong(spec: formats.Scheme):
        run = honest(spec)

        def call(x):
            codes, scale = run(x)
            if spec.format.name != "int8":
                codes[0, 0] ^= 1
            return codes, scale

        return call

    honest = all_formats.own_quantizer
    monkeypatch.setattr(all_formats, "own_quantizer", wrong)
    monkeypatch.setattr(all_formats, "time_interleaved", lambda *_, **__: pytest.fail("timed a wrong result"))
    words = ["--format", "int8", "--format", "e5m2", "--format", "mxfp8", "--no-peers", "--size", "32"]
    assert main(["bench", "formats", *words]) == 1
    err = capsys.readouterr().err
    assert "bench formats: the result is not the reference's" in err
    assert "e5m2/row: 1 of" in err
    assert "mxfp8_e4m3: 1 of" in err
    assert "int8/row" not in err


def test_the_command_prints_a_table_and_writes_a_file(capsys, tmp_path) -> None:
    path = tmp_path / "formats.json"
    assert main(["bench", "formats", "--size", "32", "--format", "int8", "--no-peers", "--out", str(path)]) == 0
    assert "int8/row" in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert content["suite"] == "formats"
    assert content["machine"]["torch"]


@pytest.mark.parametrize(
    ("words", "message"), [(["--size", "0"], "size: expected at least 1"), (["--format", "nf5"], "nearest: nf4")]
)
def test_mistakes_are_explained(capsys, words: list[str], message: str) -> None:
    assert main(["bench", "formats", *words]) == 2
    assert message in capsys.readouterr().err
