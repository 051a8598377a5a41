"""The table of the pipeline of priors: means over seeds, beside the baseline."""

from __future__ import annotations

import json

import pytest

from narrowgauge.bench.priors_effects import findings
from narrowgauge.bench.priors_pipeline import BASELINE, PIPELINE, SHOWN, plan, report, rows, run_all
from narrowgauge.bench.priors_plot import plot_effects, plot_pipeline
from narrowgauge.bench.priors_run import PipelineSettings
from narrowgauge.bench.report import write_json
from narrowgauge.bench.run_lock import exclusive
from priors_results import STRENGTH, arms, result

RUNS = plan(2, 1.0, 2e-3, "decoupled")


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> PipelineSettings:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(200)))
    return PipelineSettings(
        dim=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        ffn_dim=32,
        seq_len=16,
        batch_size=2,
        steps=3,
        fine_tune_steps=2,
        recover_steps=1,
        evaluations=1,
        curve_batches=1,
        final_windows=16,
        data=str(path),
    )


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return run_all(RUNS, settings, folder), folder


def test_runs_are_a_pipeline_and_a_baseline_for_each_seed() -> None:
    assert [(run.seed, run.shape, run.strength) for run in RUNS] == [
        (0, 2.0, 0.0),
        (0, 1.0, 2e-3),
        (1, 2.0, 0.0),
        (1, 1.0, 2e-3),
    ]
    with pytest.raises(ValueError, match="seeds: expected at least 1, got 0"):
        plan(0, 1.0, 1e-4, "decoupled")
    with pytest.raises(ValueError, match="got those of the baseline"):
        plan(1, 2.0, 0.0, "decoupled")


def test_rows_are_means_over_the_seeds(trained) -> None:
    results, _ = trained
    made = rows(results)
    assert [(row.run, row.stage.state, row.stage.form) for row in made] == [
        (kind, state, str(form)) for kind, stages in SHOWN.items() for state, form in stages
    ]
    last = next(row for row in made if (row.run, row.stage.state, row.stage.form) == (PIPELINE, "deepshape", "rf8"))
    own = [results[i].stage("deepshape", "rf8") for i in (1, 3)]
    base = [results[i].stage("recovered", "fp16").loss for i in (0, 2)]
    assert last.stage.loss == pytest.approx(sum(s.loss for s in own) / 2)
    assert last.file_bits == pytest.approx(sum(s.file_bits for s in own) / 2)
    assert last.stage.code_bits == pytest.approx(sum(s.code_bits for s in own) / 2)
    assert last.loss_percent == pytest.approx(sum(100 * (s.loss / b - 1) for s, b in zip(own, base, strict=True)) / 2)
    assert last.seeds == (0, 1)
    halves = [row for row in made if (row.run, row.stage.form) == (BASELINE, "fp16")]
    assert [row.stage.state for row in halves] == ["fine-tuned", "recovered"]
    for half in halves:
        assert (half.loss_percent, half.stage.code_bits, half.stage.train_tokens_per_s) == (0.0, None, None)


def test_a_pipeline_without_its_baseline_has_no_gap(trained) -> None:
    made = rows([r for r in trained[0] if r.run.strength])
    assert {row.run for row in made} == {PIPELINE}
    assert {row.loss_percent for row in made} == {None}


def test_finished_runs_are_not_trained_again(trained, settings) -> None:
    results, folder = trained
    assert run_all(RUNS, settings, folder, finished=lambda *_: pytest.fail("trained again")) == results


def test_what_another_process_trains_is_left_to_it(settings, tmp_path) -> None:
    with exclusive(tmp_path / RUNS[1].name / "run.lock"):
        assert [r.run for r in run_all(RUNS[:2], settings, tmp_path)] == RUNS[:1]


def test_report_has_rows_and_runs(trained, settings, tmp_path) -> None:
    content = json.loads(write_json(tmp_path / "r.json", report(trained[0], 1, settings)).read_text())
    assert (len(content["runs"]), content["pending_runs"]) == (4, 1)
    assert content["rows"][0]["stage"]["state"] == "init"
    assert content["num_parameters"] == content["rows"][0]["stage"]["parameters"]


def test_picture_is_drawn(trained, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    results, _ = trained
    assert plot_pipeline(rows(results), results, tmp_path / "new" / "stages.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="nothing can be drawn"):
        plot_pipeline([], [], tmp_path / "none.png")


def test_picture_of_effects_is_drawn_with_missing_numbers_too(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    results = arms()
    results[2] = result(results[2].run, diverged=True)
    made = findings(results, [1.0], STRENGTH, "decoupled")
    assert any(check.effect is None for finding in made for check in finding.checks)
    assert plot_effects(made, tmp_path / "effects.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="findings: got none"):
        plot_effects([], tmp_path / "none.png")
