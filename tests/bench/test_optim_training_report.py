"""Gaps, their errors and verdicts; the JSON file and the picture."""

from __future__ import annotations

import json
import math

import pytest

from narrowgauge.bench.optim_training_report import compare, noise_floor, plot, report
from narrowgauge.bench.optim_training_run import Run, RunResult
from narrowgauge.bench.report import write_json
from narrowgauge.bench.training_run import TrainingSettings

SETTINGS = TrainingSettings(dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, seq_len=16, steps=4)


def result(seed: int, beta2: float, state: str, loss: float | None) -> RunResult:
    return RunResult(
        run=Run(seed, beta2, state),
        final_loss=loss,
        note="" if loss is not None else "loss is nan at step 3",
        train_curve=([2, 4], [3.0, 2.5]),
        val_curve=([4], [2.6]),
        state_bytes_per_param=8.0,
        step_ms=10.0 + seed,
        seconds=1.0,
        machine={"cpu": "some"},
    )


def losses(state: str, values, beta2: float = 0.95) -> list[RunResult]:
    return [result(seed, beta2, state, loss) for seed, loss in enumerate(values)]


FP32 = losses("fp32", (2.0, 4.0, 2.0))


def test_gap_is_paired_by_seed_with_its_standard_error() -> None:
    _, coat = compare([*FP32, *losses("coat", (2.002, 4.0, 2.004))])
    assert coat.gaps_percent == pytest.approx((0.1, 0.0, 0.2))
    assert coat.mean_gap_percent == pytest.approx(0.1)
    assert coat.standard_error_percent == pytest.approx(0.1 / math.sqrt(3))
    assert (coat.seeds, coat.verdict, coat.is_clear, coat.step_ms) == ((0, 1, 2), "within", True, 11.0)
    assert coat.mean_loss == pytest.approx(8.006 / 3)


@pytest.mark.parametrize(
    ("values", "verdict", "is_clear"),
    [
        ((2.010, 4.020, 2.010), "above", True),
        ((1.990, 3.980, 1.990), "below", True),
        ((2.0038, 4.0100, 2.0000), "within", False),
        ((2.0100, 4.0080, 2.0000), "above", False),
        ((2.0, None, 2.0), "diverged", False),
    ],
)
def test_verdicts(values, verdict: str, is_clear: bool) -> None:
    _, coat = compare([*FP32, *losses("coat", values)])
    assert (coat.verdict, coat.is_clear) == (verdict, is_clear)


def test_limit_decides() -> None:
    runs = [*FP32, *losses("coat", (2.010, 4.020, 2.010))]
    assert compare(runs, 0.6)[1].verdict == "within"
    with pytest.raises(ValueError, match="limit: expected a number above 0, got 0"):
        compare(runs, 0.0)


def test_a_single_seed_has_no_error_and_is_not_clear() -> None:
    _, coat = compare([FP32[0], result(0, 0.95, "coat", 2.0)])
    assert coat.standard_error_percent is None
    assert not coat.is_clear


def test_only_seeds_with_a_baseline_are_compared() -> None:
    runs = [*FP32[:2], *losses("coat", (2.0, 4.0, 2.0)), result(0, 0.999, "coat", 2.0)]
    assert [(c.beta2, c.state, c.seeds) for c in compare(runs)] == [(0.95, "fp32", (0, 1)), (0.95, "coat", (0, 1))]


def test_diverged_seed_leaves_no_mean() -> None:
    _, coat = compare([*FP32, *losses("coat", (2.0, None, 2.0))])
    assert coat.gaps_percent == (0.0, None, 0.0)
    assert coat.mean_gap_percent is coat.mean_loss is coat.standard_error_percent is None


def test_noise_floor_is_the_root_mean_square_gap() -> None:
    runs = [*FP32, *losses("fp32-perturbed", (2.006, 4.016, 2.0))]
    assert noise_floor(compare(runs)) == {0.95: pytest.approx(math.sqrt((0.3**2 + 0.4**2) / 3))}
    assert noise_floor(compare(FP32)) == {}


def test_json_has_everything(tmp_path) -> None:
    runs = [*FP32, *losses("coat", (2.002, None, 2.004))]
    path = write_json(tmp_path / "new" / "out.json", report(runs, 3, SETTINGS, 0.2))
    content = json.loads(path.read_text())
    assert content["suite"] == "optim-training"
    assert content["settings"]["steps"] == 4
    assert content["num_parameters"] == 2 * 256 * 32 + 3 * 32 + 3 * 32 * 32 + 3 * 32 * 32
    assert content["pending_runs"] == 3
    assert content["machines"] == [{"cpu": "some"}]
    assert [run["machine"] for run in content["runs"]] == [0] * 6
    assert content["runs"][4]["final_loss"] is None
    assert content["runs"][4]["note"] == "loss is nan at step 3"
    assert content["runs"][0]["train_curve"] == [[2, 4], [3.0, 2.5]]
    assert [c["verdict"] for c in content["comparisons"]] == ["within", "diverged"]
    assert content["written"].endswith("+00:00")


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_picture_is_written(ending: str, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    runs = [*FP32, *losses("coat", (2.002, 4.0, 2.004)), *losses("fp32-perturbed", (2.0, 4.0, 2.0))]
    runs += [*losses("fp32", (2.0,), 0.999), *losses("coat", (None,), 0.999)]
    path = plot(runs, SETTINGS, tmp_path / "new" / f"curves.{ending}")
    assert path.stat().st_size > 5000


def test_picture_of_nothing_is_refused(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="nothing can be compared"):
        plot(losses("coat", (2.0,)), SETTINGS, tmp_path / "curves.png")
