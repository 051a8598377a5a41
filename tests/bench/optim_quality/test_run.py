"""The comparison as a whole: everybody in every table, failures named, figures that other programs can read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from narrowgauge.bench.optim_peers import STATE_PEERS, WEIGHT_PEERS
from narrowgauge.bench.optim_quality import QualityResult, expected, run, run_quality
from narrowgauge.bench.optim_quality.experiments import STATE_EXPERIMENTS, WEIGHT_EXPERIMENTS, measured_bytes
from narrowgauge.bench.optim_quality.sizes import QUICK
from narrowgauge.bench.optim_quality.table import Role
from narrowgauge.kernels.codecs import CODECS
from narrowgauge.strict_json import dumps

STATES = ("log8", "coat", "fp32")


@pytest.fixture(scope="module")
def result() -> QualityResult:
    return run_quality(STATES, quick=True)


def test_every_subject_is_in_every_table_of_its_kind(result: QualityResult) -> None:
    tables = {table.key: table for table in result.tables}
    for experiment in STATE_EXPERIMENTS:
        if not experiment.stochastic:
            assert {*STATES, *STATE_PEERS} < set(tables[experiment.key].rows)
    for experiment in WEIGHT_EXPERIMENTS:
        assert set(WEIGHT_PEERS) < set(tables[experiment.key].rows)
    assert set(tables["slope"].rows) == {"log8", "bfloat16, stochastic", "SOLO 4/2"}


def test_nothing_failed_and_every_line_holds(result: QualityResult) -> None:
    assert {name: reason for table in result.tables for name, reason in table.failed.items()} == {}
    assert [line.name for line in result.lines if not line.ok] == []


def test_float32_is_exact(result: QualityResult) -> None:
    tables = {table.key: table for table in result.tables}
    assert tables["bytes"].rows["fp32"]["bytes"] == 8.0
    assert set(tables["update"].rows["fp32"].values()) == {0.0}
    assert set(tables["toy"].rows["fp32"].values()) == {1.0}


def test_there_is_a_verdict_for_every_column_that_has_a_better_side(result: QualityResult) -> None:
    columns = {(table.key, column) for table in result.tables if table.better for column in table.columns}
    assert {(verdict.table, verdict.column) for verdict in result.verdicts} == columns
    assert {subject.role for subject in result.subjects} == set(Role)


def test_json_says_what_is_not_finite(result: QualityResult) -> None:
    content = json.loads(dumps(result.to_dict()))
    tables = {table["key"]: table for table in content["tables"]}
    assert tables["update"]["rows"]["torchao FP8"]["lognormal 2, 0.95"] in ("inf", "nan")
    assert content["settings"]["quick"] is True
    assert all("standing" in verdict for verdict in content["verdicts"])


def test_a_codec_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raises:
        stochastic, group = False, 128

        def store(self, m: Any, v: Any, seed: int = 0) -> Any:
            if m.shape != (QUICK.side, QUICK.side):
                raise RuntimeError("no room")
            return m, v

        def load(self, state: Any) -> Any:
            return state

    monkeypatch.setattr(run, "named_codec", lambda name: Raises())
    monkeypatch.setattr(run, "STATE_PEERS", {})
    monkeypatch.setattr(run, "WEIGHT_PEERS", {})
    monkeypatch.setattr(run, "check_vectors", lambda ours: [])
    result = run_quality(["broken"], quick=True)
    failed = {line.name: line.found for line in result.lines if not line.ok}
    assert failed["broken: update"] == "RuntimeError: no room"


def test_progress_is_told_from_first_to_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "STATE_PEERS", {})
    monkeypatch.setattr(run, "check_vectors", lambda ours: [])
    seen: list[tuple[int, int]] = []
    run_quality(["fp32"], quick=True, show=lambda done, total, what: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(seen[0][1]))


def test_unknown_states_are_refused() -> None:
    with pytest.raises(ValueError, match="log9"):
        run_quality(["log9"], quick=True)


def test_expected_figures_are_of_subjects_and_columns_that_exist(result: QualityResult) -> None:
    names = {*CODECS, *(subject.name for subject in result.subjects)}
    columns = {table.key: set(table.columns) for table in result.tables}
    columns["forgetting"] |= {"β₂ = 0.99", "β₂ = 0.999"}  # a quick run has one of them
    for experiment in (*STATE_EXPERIMENTS, *WEIGHT_EXPERIMENTS):
        assert set(experiment.expected) <= names, experiment.key
        for row in experiment.expected.values():
            assert set(row) <= columns[experiment.key], experiment.key
    assert expected.BYTES


def test_bytes_are_counted_from_the_stored_arrays() -> None:
    for name in ("torchao 4-bit", "FlashOptim", "SOLO 4/2"):
        codec: Any = STATE_PEERS[name]
        assert measured_bytes(codec, 256) == pytest.approx(codec.bytes_per_parameter)
    assert np.isclose(measured_bytes(WEIGHT_PEERS["bfloat16 + int8, stochastic"], 256), 3.0)
