"""The table of builds: written, read, and compared with what the kernels compile to now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from narrowgauge.bench.compile_build import Build
from narrowgauge.bench.compile_table import differences, read_table, write_table

BUILD = Build("quantize", "quantize rows", "sm_90", ("wgmma",), 64, 0, 4096, 16, 8, (), 1.5, ())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    write_table(path, [BUILD, replace(BUILD, target="gfx942", registers=99)], "3.7.1")
    return path


def test_a_table_compares_equal_with_its_own_builds(path: Path) -> None:
    table = read_table(path)
    assert table["triton"] == "3.7.1"
    assert sorted(table["builds"]) == ["gfx942", "sm_90"]
    assert differences([replace(BUILD, seconds=7.0)], table, "3.7.1") == []


def test_every_figure_is_compared(path: Path) -> None:
    changed = replace(BUILD, registers=65, spills=8, store_bytes=4, instructions=(), problems=("spills 8 bytes",))
    assert differences([changed], read_table(path), "3.7.1") == [
        "sm_90 quantize rows: instructions was ['wgmma'], is []",
        "sm_90 quantize rows: registers was 64, is 65",
        "sm_90 quantize rows: spills was 0, is 8",
        "sm_90 quantize rows: store_bytes was 8, is 4",
        "sm_90 quantize rows: spills 8 bytes",
    ]


def test_of_another_version_only_the_promises_are_compared(path: Path) -> None:
    changed = replace(BUILD, registers=65, shared_bytes=1)
    assert differences([changed], read_table(path), "3.8.0") == []
    broken = replace(changed, instructions=("mma.sync",), problems=("does not compile",))
    assert differences([broken], read_table(path), "3.8.0") == [
        "sm_90 quantize rows: instructions was ['wgmma'], is ['mma.sync']",
        "sm_90 quantize rows: does not compile",
    ]


def test_a_build_that_the_table_lacks_is_named(path: Path) -> None:
    new = replace(BUILD, case="new"), replace(BUILD, target="sm_80")
    assert differences(new, read_table(path), "3.7.1") == [
        "sm_90 new: is not in the table",
        "sm_80 quantize rows: is not in the table",
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"triton": "3", "builds": []}', '{"builds": {"sm_90": 1}}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    other = tmp_path / "other.json"
    other.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json is no table of builds"):
        read_table(other)
