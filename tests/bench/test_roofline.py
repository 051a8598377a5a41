"""The roofline has the roofs that were measured, every row, and says what it lacks."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from narrowgauge.bench import Row, SuiteResult, Timing
from narrowgauge.bench.roofline import PEAK, attainable, plot, points, ridge, roofs, spaced

TIMING = Timing(1e-3, 1e-3, 1e-3, 1e-3, 9, 1)
CEILINGS = {"copy_gb_per_s": 2000.0, "bfloat16_tflop_per_s": 600.0, "float32_tflop_per_s": 40.0}


def suite(rows: int = 3, ceilings=CEILINGS) -> SuiteResult:
    timed = [
        Row(f"kernel {n}", TIMING, 1.0, {"intensity_flop_per_byte": 2.0 * 8**n, "tflop_per_s": 3.0 * 5**n})
        for n in range(rows)
    ]
    return SuiteResult("gemm", {}, "copy", [Row("copy", TIMING, 1.0, {"gb_per_s": 1.0}), *timed], ceilings=ceilings)


def test_what_is_attainable_is_the_lower_roof() -> None:
    assert attainable(10.0, 2000.0, 600.0) == 20.0
    assert attainable(1000.0, 2000.0, 600.0) == 600.0
    assert ridge(2000.0, 600.0) == 300.0
    assert attainable(300.0, 2000.0, 600.0) == 600.0


def test_roofs_are_found_by_their_unit() -> None:
    assert roofs(CEILINGS, PEAK) == {"bfloat16": 600.0, "float32": 40.0}


def test_rows_without_the_figures_are_no_points() -> None:
    assert points(suite(2)) == [("kernel 0", 2.0, 3.0), ("kernel 1", 16.0, 15.0)]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_written(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    path = plot(suite(), tmp_path / "new" / f"roof.{ending}")
    assert path.stat().st_size > 5000


def test_the_picture_names_every_row_and_roof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    text = plot(suite(4), tmp_path / "roof.svg").read_text()
    for expected in ("kernel 0", "kernel 3", "copy: 2,000 GB/s", "bfloat16: 600 TFLOP/s, ridge at 300 FLOP/byte"):
        assert expected in text


def test_a_suite_with_a_bandwidth_alone_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plot(suite(ceilings={"copy_gb_per_s": 10.0}), tmp_path / "roof.svg").exists()


@pytest.mark.parametrize(
    ("result", "name", "message"),
    [
        (suite(0), "a.png", "lacks rows with intensity_flop_per_byte and tflop_per_s"),
        (suite(ceilings={}), "a.png", "lacks a measured bandwidth"),
        (suite(), "a.txt", r"end in \.png, \.svg or \.pdf, got 'a\.txt'"),
    ],
)
def test_what_is_lacking_is_said(result: SuiteResult, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot(result, name)


def test_without_matplotlib_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install 'narrowgauge\[plots\]'"):
        plot(suite(), "a.png")


@pytest.mark.parametrize("heights", [[0.9, 0.9, 0.9], [0.02, 0.01, 0.0], [1.0, 0.5, 0.49, 0.48, 0.1], [], [1.3]])
def test_labels_are_apart_in_order_and_inside(heights: list[float]) -> None:
    placed = spaced(heights, 0.1)
    assert all(upper - lower > 0.1 - 1e-9 for upper, lower in pairwise(placed))
    assert all(-1e-9 <= height <= 1.0 for height in placed)
