"""The table of a suite: heads with units, shares, ceilings, and what was not timed by reason."""

from __future__ import annotations

from narrowgauge.bench import Row, SuiteResult, Timing
from narrowgauge.commands.bench_output import print_suite, refuse

TIMING = Timing(0.5, 0.4, 0.6, 0.3, 9, 1)


def test_table_has_units_ceilings_and_reasons(capsys) -> None:
    rows = [
        Row("copy", TIMING, 1.0, {"gb_per_s": 20.0, "copy_percent": 100.0}, "a note"),
        Row("ours", TIMING, 1.5, {"gb_per_s": 5.0, "copy_percent": 25.0, "tflop_per_s": 0.5, "peak_percent": 80.0}),
    ]
    skipped = {"a": "is not installed", "b, c": "is not installed", "d": "left out"}
    ceilings = {"copy_gb_per_s": 20.0, "float32_tflop_per_s": 0.625, "odd": 3.0}
    print_suite(SuiteResult("s", {"size": 8}, "copy", rows, skipped, ceilings=ceilings))
    title, heads, _, copy, ours, *rest = capsys.readouterr().out.splitlines()
    assert title == "s: size 8"
    assert heads.split("   ")[-1].strip() == ""
    assert heads.split() == ["GB/s", "%", "of", "copy", "TFLOP/s", "%", "of", "peak", "spread", "%", "×", "copy"]
    assert copy.split() == ["copy", "20", "100", "-", "-", "40", "1.00", "a", "note"]
    assert ours.split() == ["ours", "5", "25", "0.5", "80", "40", "1.50"]
    assert "ceilings in this run: copy 20 GB/s, float32 0.625 TFLOP/s, odd 3" in rest
    assert "not timed: a; b, c (is not installed)" in rest
    assert "not timed: d (left out)" in rest
    assert rest[-1].startswith("on ")


def test_a_wrong_result_is_told_on_stderr(capsys) -> None:
    assert refuse("quantize", AssertionError("codes: 1 of 8 elements differ")) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "narrowgauge bench quantize: the result is not the reference's" in err
    assert "codes: 1 of 8 elements differ" in err
