"""Comparing two results: rows are found again, chance is no change, and what differs is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from narrowgauge.bench import Row, SuiteResult, Timing, describe_machine, write_result
from narrowgauge.bench.compare import compare
from narrowgauge.cli import main

MACHINE = describe_machine()
GPU = replace(MACHINE, gpu="NVIDIA H100 (sm_90)")


def timing(median: float, spread: float = 0.0) -> Timing:
    half = median * spread / 2
    return Timing(median, median - half, median + half, median - half, 9, 1)


def result(
    medians: Mapping[str, float], *, spread: float = 0.0, base: float = 1.0, base_spread: float = 0.0, **options
):
    rows = [Row("copy", timing(base, base_spread), 1.0)]
    rows += [Row(name, timing(median, spread), median / base) for name, median in medians.items()]
    options = {"suite": "s", "settings": {"size": 8}, "baseline": "copy", "machine": MACHINE} | options
    return SuiteResult(rows=rows, **options)


def verdicts(a: SuiteResult, b: SuiteResult, **options) -> dict[str, str]:
    return {row.name: row.verdict for row in compare([a], [b], **options).rows}


def test_rows_have_both_ratios_and_a_verdict() -> None:
    compared = compare(
        [result({"up": 2.0, "down": 2.0, "like": 2.0})], [result({"up": 1.0, "down": 3.0, "like": 2.02})]
    )
    assert [row.name for row in compared.rows] == ["copy", "up", "down", "like"]
    assert {row.name: row.verdict for row in compared.rows} == {
        "copy": "same", "up": "faster", "down": "slower", "like": "same",
    }  # fmt: skip
    assert compared.rows[2].time_ratio == compared.rows[2].relative_ratio == 1.5
    assert compared.rows[2].seconds == (2.0, 3.0)
    assert (compared.count("faster"), compared.count("slower"), compared.count("same")) == (1, 1, 2)
    assert compared.mean_ratio() == pytest.approx((0.5 * 1.5 * 1.01) ** 0.25)


def test_what_lies_within_the_spreads_is_the_same() -> None:
    before = result({"x": 1.0}, spread=0.3)
    assert verdicts(before, result({"x": 1.19}, spread=0.1))["x"] == "same"
    assert verdicts(before, result({"x": 1.21}, spread=0.1))["x"] == "slower"
    assert verdicts(before, result({"x": 1 / 1.19}, spread=0.1))["x"] == "same"
    assert verdicts(before, result({"x": 1 / 1.21}, spread=0.1))["x"] == "faster"


def test_the_limit_hides_small_changes_of_quiet_rows() -> None:
    assert verdicts(result({"x": 1.0}), result({"x": 1.08}))["x"] == "slower"
    assert verdicts(result({"x": 1.0}), result({"x": 1.08}), limit_percent=10)["x"] == "same"


def test_a_machine_that_is_twice_as_fast_is_no_faster_code() -> None:
    before = result({"x": 2.0})
    after = result({"x": 1.0}, base=0.5, machine=GPU)
    compared = compare([before], [after])
    assert compared.by == "relative"
    assert (compared.rows[1].time_ratio, compared.rows[1].relative_ratio) == (0.5, 1.0)
    assert compared.rows[1].verdict == "same"
    assert compare([before], [after], by="time").rows[1].verdict == "faster"


def test_a_restless_baseline_makes_relative_ratios_uncertain() -> None:
    before, after = (result({"x": 1.0 + step}, base_spread=0.4) for step in (0.0, 0.3))
    assert verdicts(before, after, by="time")["x"] == "slower"
    assert verdicts(before, after, by="relative")["x"] == "same"


def test_what_one_file_has_alone_is_listed() -> None:
    other = result({"y": 1.0}, suite="t")
    compared = compare([result({"x": 1.0, "gone": 1.0})], [result({"x": 1.0, "new": 1.0}), other])
    assert compared.only_a == ["s: gone"]
    assert compared.only_b == ["s: new", "t: copy", "t: y"]


def test_of_several_results_of_a_suite_those_with_the_same_settings_meet() -> None:
    small, large = (result({"x": float(size)}, settings={"size": size, "dtype": "f"}) for size in (1, 4))
    compared = compare([small, large], [large, small])
    assert [row.time_ratio for row in compared.rows] == [1.0] * 4
    assert compared.warnings == []
    compared = compare([small, large], [result({"x": 4.0}, settings={"size": 4, "dtype": "g"})])
    assert compared.rows[1].time_ratio == 1.0
    assert compared.only_a == ["s: copy", "s: x"]


def test_different_hardware_versions_settings_and_baselines_are_said() -> None:
    after = result({"x": 1.0}, machine=replace(GPU, torch="9.9"), baseline="x",
                   settings={"size": 9, "seed": 1, "list": [1] * 99})  # fmt: skip
    warnings = compare([result({"x": 1.0})], [after]).warnings
    assert f"hardware: gpu is {MACHINE.gpu or 'absent'} in A, NVIDIA H100 (sm_90) in B" in warnings
    assert f"version: torch is {MACHINE.torch} in A, 9.9 in B" in warnings
    assert "setting of s: size is 8 in A, 9 in B" in warnings
    assert "setting of s: seed is absent in A, 1 in B" in warnings
    assert f"setting of s: list is absent in A, [{'1, ' * 19}1… in B" in warnings
    assert any("the baseline is copy in A, x in B" in text for text in warnings)
    assert compare([result({"x": 1.0})], [after]).rows[1].relative_ratio is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"limit_percent": -1.0}, "limit: expected 0 % or more"), ({"limit_percent": float("nan")}, "limit: expected"),
     ({"by": "luck"}, "by: accepted are time and relative")],
)  # fmt: skip
def test_mistakes_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare([result({})], [result({})], **options)


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(ValueError, match="no suite in common: s; t"):
        compare([result({})], [result({}, suite="t")])


@pytest.fixture
def files(tmp_path):
    paths = [write_result(result(medians), tmp_path / name) for name, medians in (
        ("a.json", {"x": 1.0, "y": 1.0}), ("b.json", {"x": 1.2, "y": 0.5}))]  # fmt: skip
    return [str(path) for path in paths]


def test_the_command_prints_a_table(files, capsys) -> None:
    assert main(["bench", "compare", *files]) == 0
    out = capsys.readouterr().out
    assert "B against A, judged by time" in out
    assert "3 rows: 1 faster, 1 slower, 1 same; geometric mean × 0.843" in out


def test_the_command_gives_json(files, capsys) -> None:
    assert main(["bench", "compare", *files, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in content["rows"]] == ["same", "slower", "faster"]
    assert content["mean_ratio"] == pytest.approx(0.6 ** (1 / 3))


def test_a_row_that_lost_too_much_is_exit_status_one(files, capsys) -> None:
    assert main(["bench", "compare", *files, "--fail-slower", "10"]) == 1
    assert "s: x is 20.0 % slower" in capsys.readouterr().err
    assert main(["bench", "compare", *files, "--fail-slower", "25"]) == 0
    assert main(["bench", "compare", *reversed(files), "--fail-slower", "99"]) == 1
    assert "s: y is 100.0 % slower" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [(["/nowhere.json", "/nowhere.json"], "No such file"), (["--fail-slower", "-1"], "--fail-slower: expected 0 %")],
)
def test_mistakes_on_the_command_line_are_explained(files, words, message: str, capsys) -> None:
    words = words if len(words) == 2 and not words[0].startswith("--") else [*files, *words]
    assert main(["bench", "compare", *words]) == 2
    assert message in capsys.readouterr().err
