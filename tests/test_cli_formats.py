"""`narrowgauge formats`: the table, one format in detail, its picture, and the page of the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.cli import main
from narrowgauge.commands import format_facts, format_layout, format_sqnr
from narrowgauge.formats import BlockFormat
from narrowgauge.formats.hardware import NATIVE, native_support

ROOT = Path(__file__).resolve().parents[1]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(list(words))
    out, err = capsys.readouterr()
    return status, out, err


def test_the_table_lists_every_registered_format(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "formats")
    rows = out.split("\n\n")[0].splitlines()[2:]
    assert status == 0
    assert [line.split()[0] for line in rows] == list(formats.names())


def test_json_is_a_list_with_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "formats", "--json")[1])
    assert [row["name"] for row in rows] == list(formats.names())
    (e4m3fn,) = (row for row in rows if row["name"] == "e4m3fn")
    assert (e4m3fn["bits"], e4m3fn["max"], e4m3fn["finite_codes"], e4m3fn["has_inf"]) == (8.0, 448.0, 254, False)


@pytest.mark.parametrize("name", [*formats.names(), "q3.4", "rf8b3", "binary6p3ue", "e3m2b3", "bfp6g16"])
def test_every_format_can_be_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "formats", name)[1]
    assert out.startswith(f"{formats.get(name).name}: ")
    assert "  bit " in out
    assert "In hardware:" in out


@pytest.mark.parametrize("name", ["e4m3fn", "mx9", "int4", "nf4", "e8m0fnu", "posit8es1", "tf32", "q3.4"])
def test_json_of_one_format_says_all_that_the_text_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    described = json.loads(run(capsys, "formats", name, "--json")[1])
    assert described["max"] == formats.finfo(name).max
    assert sum(width for _, width in described["fields"]) == format_facts.element_of(name).bits
    assert [entry["hardware"] for entry in described["hardware"]] == [s.hardware for s in native_support(name)]
    if name != "e8m0fnu":
        assert {"Gaussian", "Laplace", "GG, shape 0.5", "uniform"} == set(described["sqnr_db"])


def test_json_has_the_value_of_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(run(capsys, "formats", "e4m3fn", "--json")[1])["values"]
    assert (len(values), values[0x7E], values[0x7F], values[1]) == (256, 448.0, "nan", 2.0**-9)


def test_bits_are_drawn_by_field() -> None:
    assert format_layout.bit_diagram(formats.get("e4m3fn")).splitlines() == [
        "  bit  7 | 6 5 4 3 | 2 1 0",
        "       S | E E E E | M M M",
    ]
    assert format_layout.bit_fields(formats.get("q3.4")) == [("S", 1), ("I", 3), ("F", 4)]
    assert format_layout.bit_fields(formats.get("ue4m3fn")) == [("E", 4), ("M", 3)]
    assert format_layout.bit_fields(formats.get("q0.7")) == [("S", 1), ("F", 7)]


def test_special_codes_are_those_of_the_standard() -> None:
    marked = {meaning.split(",")[0]: code for code, _, meaning in format_layout.special_codes(formats.get("e5m2"))}
    assert marked["infinity"] == "0x7C"
    assert marked["negative infinity"] == "0xFC"
    assert marked["largest"] == "0x7B"
    assert marked["smallest normal"] == "0x04"
    assert marked["one"] == "0x3C"
    assert marked["NaN"] == "0x7E"
    lowest = {meaning: code for code, _, meaning in format_layout.special_codes(formats.get("int8"))}
    assert lowest["decodes, but encode never gives it"] == "0x80"
    assert format_layout.special_codes(formats.get("fp32")) == []


def test_number_line_of_e2m1fn_has_a_mark_for_each_value() -> None:
    lines = format_facts.number_line([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]).splitlines()
    assert lines[0].count("|") == 8  # zero is the first
    assert lines[1].split() == ["0", "6"]
    assert lines[-2].split() == ["e", "-1", "0", "1", "2"]
    assert lines[-1].split()[:5] == ["values", "1", "2", "2", "2"]


def test_many_powers_of_two_are_counted_together() -> None:
    lines = format_facts.octave_line([2.0**e for e in range(-40, 40)]).splitlines()
    counts = [int(word) for word in lines[1].split("(")[0].split()[1:]]
    assert sum(counts) == 80
    assert len(counts) <= format_facts.MOST_OCTAVES


def test_sqnr_of_the_survey_is_reproduced() -> None:
    # Gaussian data, one scale for the tensor (survey F.4: E4M3 31.6, E5M2 25.6, INT4 14.2 at two million samples).
    expected = {"e4m3fn": 31.6, "e5m2": 25.6, "e3m4": 37.6}
    for name, decibel in expected.items():
        assert format_sqnr.sqnr_table(formats.get(name))["Gaussian"]["one scale"] == pytest.approx(decibel, abs=0.25)
    assert format_sqnr.sqnr_table(formats.get("nvfp4"))["Gaussian"]["amax"] == pytest.approx(20.4, abs=0.2)
    assert format_sqnr.sqnr_table(formats.get("hif8"))["Gaussian"]["as it is"] == pytest.approx(31.5, abs=0.25)


def test_hardware_names_registered_formats_and_elements_of_blocks() -> None:
    for name in NATIVE:
        assert name in formats.names()
    assert native_support("posit8es1") == ()
    assert "elements" in native_support("msfp16")[0].hardware
    assert all(entry.source for name in NATIVE for entry in NATIVE[name])


@pytest.mark.parametrize("name", ["e4m3fn", "nf4", "binary", "mx6", "uint2", "bf16"])
def test_the_picture_is_written(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / f"{name}.png"
    status, _, err = run(capsys, "formats", name, "--plot", str(path))
    assert status == 0
    assert f"written: {path}" in err
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000


def test_mistakes_with_the_picture_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "formats", "--plot", "x.png")
    assert status == 2
    assert "--plot: draws one format; name it, as in 'narrowgauge formats e4m3fn --plot e4m3fn.png'" in err
    status, _, err = run(capsys, "formats", "fp32", "--plot", "x.png")
    assert (status, err) == (2, "narrowgauge formats: --plot: fp32 has codes of 32 bits; accepted: at most 16\n")


def test_rules_name_formats_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "formats", "--rules", "--json")[1])
    assert len(rows) >= 8
    for row in rows:
        assert formats.get(row["example"]).name == row["example"]
    assert rows[0]["example"] in run(capsys, "formats", "--rules")[1]


def test_block_diagram_names_scale_pairs_and_elements() -> None:
    fmt: BlockFormat = formats.get("mx9")
    text = format_layout.block_diagram(fmt)
    assert "[scale: 8 bits, e8m0fnu] [8 x 1 bit: exponents of every 2 values] [16 elements of 8 bits" in text
    assert "[float32 scale of the tensor]" in format_layout.block_diagram(formats.get("nvfp4"))
    assert "24 x 24" in format_layout.block_diagram(formats.get("hbfp8"))


def test_page_of_formats_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert run(capsys, "formats", "--markdown")[1] == page, "narrowgauge formats --markdown > docs/formats.md"


def test_unsigned_formats_are_measured_on_magnitudes() -> None:
    table = format_sqnr.sqnr_table(formats.get("uint8"))
    assert table["Gaussian"]["one scale"] > 35
    assert np.isfinite(list(table["Laplace"].values())).all()
