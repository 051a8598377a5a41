"""Verdicts on the effects of priors, with planted numbers."""

from __future__ import annotations

import dataclasses
import json

import pytest

from narrowgauge.bench.priors_effects import (
    Finding,
    bits_at_loss,
    check,
    findings,
    joint,
    plan,
    report,
    steps_to,
    verdict_of,
)
from narrowgauge.bench.priors_run import PipelineRun, PipelineSettings
from narrowgauge.bench.report import write_json
from narrowgauge.train import NOT_SHOWN, OPPOSITE, SHOWN, Effect
from priors_results import CHEAPER, CURVE, DEARER, SEEDS, STRENGTH, arms, result


def found(results, name: str, treatment: str) -> Finding:
    chosen = [f for f in findings(results, [1.0], STRENGTH, "decoupled") if f.name == name and f.treatment == treatment]
    assert len(chosen) == 1
    return chosen[0]


def interval(low: float, high: float) -> Effect:
    return Effect(
        metric="", treatment=0, control=0, difference=(low + high) / 2, low=low, high=high, n=3, confidence=0.95
    )


@pytest.mark.parametrize(
    ("low", "high", "limit", "verdict"),
    [
        (-60, -51, -50, SHOWN),
        (-60, -50, -50, NOT_SHOWN),
        (-60, -49, -50, NOT_SHOWN),
        (-40, -30, -50, NOT_SHOWN),
        (-1, 1, -50, NOT_SHOWN),
        (1, 2, -50, OPPOSITE),
        (-1, 1.9, 2, SHOWN),
        (1, 3, 2, NOT_SHOWN),
        (2.1, 3, 2, OPPOSITE),
        (0.0, 0.1, 0, NOT_SHOWN),
        (-0.1, 0.0, 0, NOT_SHOWN),
        (-0.2, -0.1, 0, SHOWN),
    ],
)
def test_verdict_is_that_of_the_whole_interval(low, high, limit, verdict) -> None:
    assert verdict_of(interval(low, high), limit) == verdict


def test_nothing_is_shown_without_an_interval() -> None:
    assert verdict_of(None, 100.0) == NOT_SHOWN


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([SHOWN, SHOWN], SHOWN),
        ([SHOWN, NOT_SHOWN], NOT_SHOWN),
        ([SHOWN, NOT_SHOWN, OPPOSITE], OPPOSITE),
        ([], NOT_SHOWN),
    ],
)
def test_all_checks_have_to_be_shown(verdicts, expected) -> None:
    assert joint(verdicts) == expected


def test_interval_is_that_of_student() -> None:
    made = check("bits", [(9.0, 10.0), (8.0, 10.0), (7.0, 10.0)], -5.0)
    assert made.values == pytest.approx((-10, -20, -30))
    # t(2) of 97.5 % is 4.3027; s = 10; 4.3027 * 10 / sqrt(3) = 24.842.
    assert (made.effect.low, made.effect.high) == pytest.approx((-44.842, 4.842), abs=1e-3)
    assert (made.treatment, made.control, made.verdict) == (8.0, 10.0, NOT_SHOWN)


def test_a_missing_number_leaves_no_interval() -> None:
    made = check("bits", [(9.0, 10.0), (None, 10.0), (8.0, 10.0)], -5.0)
    assert made.values == (pytest.approx(-10), None, pytest.approx(-20))
    assert (made.effect, made.treatment, made.control, made.verdict) == (None, None, 10.0, NOT_SHOWN)


def test_bits_at_a_loss_lie_between_its_neighbours() -> None:
    assert bits_at_loss(CURVE, 2.02, 2) == pytest.approx(5.0)
    assert bits_at_loss(CURVE, 2.02, 3) == pytest.approx(5.5)
    assert bits_at_loss(CURVE, 2.0, 2) == pytest.approx(8.0)
    assert bits_at_loss(CURVE, 1.9, 2) is None
    assert bits_at_loss(CURVE, 2.5, 2) is None


def test_steps_to_a_loss_lie_between_the_points() -> None:
    curve = ([10, 20, 30], [4.0, 3.0, 2.5])
    assert steps_to(curve, 3.5) == pytest.approx(15)
    assert steps_to(curve, 4.2) == 10
    assert steps_to(curve, 2.5) == 30
    assert steps_to(curve, 2.4) is None


@pytest.mark.parametrize(
    ("area", "verdict", "faster"),
    [(2.9, SHOWN, SHOWN), (3.0, SHOWN, NOT_SHOWN), (3.01, SHOWN, OPPOSITE), (3.1, OPPOSITE, OPPOSITE)],
)
def test_initial_weights_are_as_fast_or_not(area: float, verdict: str, faster: str) -> None:
    finding = found(arms(gg={"area": area}), "init", "shape 1, no rate")
    assert (finding.verdict, finding.checks[1].verdict) == (verdict, faster)
    assert (finding.control, finding.seeds) == ("shape 2, no rate", SEEDS)
    assert [c.judged for c in finding.checks] == [True, False, False, False]


@pytest.mark.parametrize(
    ("rate", "verdict"),
    [
        ({"bits": 3.0, "loss": 2.02}, SHOWN),
        ({"bits": 4.0, "loss": 2.02}, NOT_SHOWN),
        ({"bits": 3.0, "loss": 2.05}, OPPOSITE),
        ({"bits": 8.0, "loss": 1.9}, OPPOSITE),
    ],
)
def test_backslash_has_to_cut_bits_and_keep_the_loss(rate, verdict: str) -> None:
    finding = found(arms(rate=rate), "backslash", "shape 2, λ/N 0.0001 decoupled")
    assert finding.verdict == verdict
    bits, loss, *told = finding.checks
    assert bits.effect.difference == pytest.approx(100 * (rate["bits"] / 7 - 1))
    assert loss.effect.difference == pytest.approx(100 * (rate["loss"] / 2 - 1))
    assert all(not c.judged and c.verdict == "" for c in told)


@pytest.mark.parametrize(
    ("curve", "verdict"),
    [(CHEAPER, SHOWN), (CURVE, NOT_SHOWN), (DEARER, OPPOSITE)],
)
def test_deepshape_is_judged_at_the_same_loss(curve, verdict: str) -> None:
    finding = found(arms(plain={"reshaped": curve}), "deepshape", "shape 2, no rate, reshaped")
    # The loss 1 % above 2.00, at 5.5 bits of the control.
    assert finding.checks[0].control == pytest.approx(5.5)
    assert finding.verdict == verdict


def test_reshaped_weights_that_never_reach_the_loss_show_nothing() -> None:
    lossy = tuple((step, loss + 0.5, entropy, bits) for step, loss, entropy, bits in CURVE)
    finding = found(arms(plain={"reshaped": lossy}), "deepshape", "shape 2, no rate, reshaped")
    assert finding.checks[0].values == (None, None, None)
    assert finding.verdict == NOT_SHOWN


@pytest.mark.parametrize(("rf8", "verdict"), [(1.004, SHOWN), (1.0, SHOWN), (1.006, OPPOSITE)])
def test_rf8_has_to_stay_near_fp16(rf8: float, verdict: str) -> None:
    finding = found(arms(both={"bits": 3.0, "rf8": rf8}), "rf8", "shape 1, λ/N 0.0001 decoupled, rf8/row")
    assert finding.verdict == verdict


def test_a_run_that_diverged_shows_nothing() -> None:
    results = [dataclasses.replace(r) for r in arms()]
    results[6] = result(PipelineRun(1, 2.0, STRENGTH), diverged=True)
    made = findings(results, [1.0], STRENGTH, "decoupled")
    touched = [f for f in made if "shape 2, λ/N" in f.treatment + f.control]
    assert len(touched) == 4
    assert {f.verdict for f in touched} == {NOT_SHOWN}


def test_effects_without_two_seeds_are_left_out() -> None:
    assert findings(arms(seeds=(0,)), [1.0], STRENGTH, "decoupled") == []
    some = [r for r in arms() if r.run.shape == 2.0 and not r.run.strength]
    assert {f.name for f in findings(some, [1.0], STRENGTH, "decoupled")} == {"deepshape", "rf8"}


def test_plan_has_every_run_once_and_whole_seeds_first() -> None:
    runs = plan(2, [1.0, 0.5], STRENGTH, "in_loss")
    assert len(set(runs)) == len(runs) == 10
    assert [run.seed for run in runs] == [0] * 5 + [1] * 5
    assert runs[0] == PipelineRun(0)
    assert runs[4] == PipelineRun(0, 1.0, STRENGTH, "in_loss")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, [1.0], STRENGTH), "seeds: expected at least 2, got 1"),
        ((3, [], STRENGTH), "shapes: got"),
        ((3, [1.0, 1.0], STRENGTH), "shapes: got"),
        ((3, [2.0], STRENGTH), "shapes: got"),
        ((3, [1.0], 0.0), "strength: expected a number above 0"),
    ],
)
def test_plans_that_compare_nothing_are_refused(given, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*given, "decoupled")


def test_report_is_plain_data(tmp_path) -> None:
    settings = PipelineSettings(dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, seq_len=16)
    content = report(arms(), 3, settings, [1.0], STRENGTH, "decoupled")
    read = json.loads(write_json(tmp_path / "report.json", content).read_text())
    assert read["pending_runs"] == 3
    assert len(read["runs"]) == 12
    assert {f["name"] for f in read["findings"]} == {"init", "backslash", "deepshape", "rf8"}
    assert read["runs_of"] == {"shapes": [1.0], "strength": STRENGTH, "mode": "decoupled"}
