import json
from pathlib import Path

import pytest

from narrowgauge.bench.evidence import (
    COMMITTED,
    all_evidence,
    evidence_of,
    read_evidence,
    without_evidence,
    write_evidence,
)
from narrowgauge.bench.evidence_page import evidence_page
from narrowgauge.bench.evidence_run import Outcome, Trial, run_trials
from narrowgauge.train import NOT_SHOWN, OPPOSITE, SHOWN

DOCS = Path(__file__).parents[2] / "docs"


def outcomes(*pairs: tuple[float, float], recipe: str | None = None) -> list[Outcome]:
    return [
        Outcome(Trial("ema", seed, recipe), {"average": average, "last weights": last}, 1.25)
        for seed, (average, last) in enumerate(pairs)
    ]


GOOD = outcomes((1.0, 2.0), (1.1, 2.0))
BAD = outcomes((2.0, 1.0), (2.0, 1.1))


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    evidence = evidence_of(GOOD[::-1])
    path = write_evidence(evidence, tmp_path)
    assert path.name == "ema.json"
    assert list(evidence.values) == [0, 1]
    assert read_evidence(path) == evidence
    assert evidence.verdict == SHOWN
    assert json.loads(path.read_text())["verdict"] == SHOWN


def test_a_file_is_judged_anew(tmp_path: Path) -> None:
    path = write_evidence(evidence_of(BAD), tmp_path)
    content = json.loads(path.read_text()) | {"verdict": SHOWN, "judged": []}
    path.write_text(json.dumps(content))
    assert read_evidence(path).verdict == OPPOSITE


def test_numbers_that_are_not_finite_survive_and_show_nothing(tmp_path: Path) -> None:
    path = write_evidence(evidence_of(outcomes((float("nan"), 1.0), (0.5, 1.0))), tmp_path)
    assert read_evidence(path).verdict == NOT_SHOWN


def test_composed_runs_have_files_of_their_own_and_come_after(tmp_path: Path) -> None:
    write_evidence(evidence_of(outcomes((1.0, 2.0), (1.1, 2.0), recipe="fp8_row")), tmp_path)
    write_evidence(evidence_of(GOOD), tmp_path)
    assert [evidence.file_name for evidence in all_evidence(tmp_path)] == ["ema.json", "ema.fp8_row.fp32.json"]
    assert "ema" not in without_evidence(all_evidence(tmp_path))
    assert "backslash" in without_evidence(all_evidence(tmp_path))


def test_outcomes_of_two_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="outcomes: expected those of one method, recipe and state"):
        evidence_of([GOOD[0], outcomes((1.0, 1.0), recipe="fp8_row")[0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {"0": {"average": 1.0}, "1": {"average": 1.0}}}, "gave no 'last weights'"),
        ({"method": "emma"}, "unknown method 'emma'"),
        ({"values": None}, "is no result of `narrowgauge methods check`"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, change, message) -> None:
    path = write_evidence(evidence_of(GOOD), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        read_evidence(path)
    assert str(path) in str(caught.value)


def test_the_page_says_what_was_shown_and_what_was_not(tmp_path: Path) -> None:
    page = evidence_page([evidence_of(GOOD), evidence_of(outcomes((2.0, 1.0), (2.0, 1.1), recipe="fp8_row"))])
    assert "| [ema](#ema) | [Exponential Moving Average" in page
    assert "| float32 | shown | 2 | 1 |" in page
    assert "| `fp8_row`, moments `fp32` | opposite | 2 | 1 |" in page
    assert "1.05 (average) | 2 (last weights) | -0.95 |" in page
    assert "backslash" in page.split("Not run yet: ")[1].split("\n")[0]


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert (DOCS / "evidence.md").read_text(encoding="utf-8") == evidence_page(all_evidence(COMMITTED))


def test_every_method_has_evidence() -> None:
    assert without_evidence(all_evidence(COMMITTED)) == []


def test_trials_here_give_the_experiments_numbers_and_tell_how_far_they_are() -> None:
    told: list[tuple[int, float]] = []
    trials = [Trial("ema", seed, scale=0.02) for seed in (0, 1)]
    found = list(run_trials(trials, jobs=1, tell=lambda trial, share, what: told.append((trial.seed, share))))
    assert [outcome.trial for outcome in found] == trials
    assert all(outcome.values.keys() == {"average", "last weights"} for outcome in found)
    assert {seed for seed, _ in told} == {0, 1}
    again = list(run_trials(trials[:1], jobs=1, tell=lambda *news: None))
    assert again[0].values == found[0].values


@pytest.mark.slow
def test_processes_give_the_same_numbers() -> None:
    trials = [Trial("ema", seed, scale=0.02) for seed in (0, 1)]
    here = {outcome.trial: outcome.values for outcome in run_trials(trials, jobs=1, tell=lambda *news: None)}
    there = {outcome.trial: outcome.values for outcome in run_trials(trials, jobs=2, tell=lambda *news: None)}
    assert here == there


def test_no_jobs_are_refused() -> None:
    with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"):
        list(run_trials([], jobs=0, tell=lambda *news: None))
