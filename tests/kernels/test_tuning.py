"""Which configuration is taken: the model's, or what was measured on this kind of device and kept on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from narrowgauge.kernels import tuning


class Config(NamedTuple):
    block: int
    warps: int = 4


CANDIDATES = [Config(16), Config(32), Config(64), Config(128)]
CUDA = torch.device("cuda")  # a name; nothing runs on it here


def by_model(config: Config) -> float:
    """32 is best, 128 cannot run."""
    return {16: 2.0, 32: 1.0, 64: 1.5, 128: float("inf")}[config.block]


def nothing(config: Config) -> None:
    raise AssertionError(f"{config} was run where nothing is measured")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache folder of its own, no decisions yet, and a GPU of which only the name is known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "_decisions", {})
    monkeypatch.setattr(tuning, "_is_capturing", lambda: False)
    monkeypatch.setattr(tuning, "device_name", lambda device: "Fake-GPU-triton-9" if device.type == "cuda" else "model")
    tuning._table.cache_clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What was timed; the time of a candidate is 1 / block."""
    timed: list[Config] = []

    def measure(call: Callable[[], Config]) -> float:
        timed.append(call())
        return 1 / timed[-1].block

    monkeypatch.setattr(tuning, "median_seconds", measure)
    return timed


def forget() -> None:
    """As a new process starts."""
    tuning._decisions.clear()
    tuning._table.cache_clear()


def test_without_measurements_the_model_decides() -> None:
    for device in (torch.device("cpu"), CUDA):
        assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, nothing, device) == Config(32)
    assert {(choice.how, choice.seconds) for choice in tuning.decisions()} == {("model", None)}


def test_equals_go_to_the_first() -> None:
    assert tuning.choose("op", "key", lambda: CANDIDATES, lambda config: 1.0, nothing, CUDA) == Config(16)


def test_nothing_is_measured_on_a_cpu() -> None:
    with tuning.measuring():
        assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, nothing, torch.device("cpu")) == Config(32)


def test_no_candidate_that_can_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="candidates: none of 1 configurations of op can run big on model"):
        tuning.choose("op", "big", lambda: [Config(128)], by_model, nothing, torch.device("cpu"))
    with pytest.raises(ValueError, match="none of 0 configurations"):
        tuning.choose("op", "big", lambda: [], by_model, nothing, torch.device("cpu"))


def test_the_fastest_is_measured_once_and_kept_for_later_processes(clock: list[Config]) -> None:
    with tuning.measuring():
        first = tuning.choose("op", "key", lambda: CANDIDATES, by_model, lambda config: config, CUDA)
        again = tuning.choose("op", "key", lambda: CANDIDATES, by_model, nothing, CUDA)
    assert first == again == Config(64)
    assert clock == [Config(32), Config(64), Config(16)]  # the one that cannot run is not tried
    forget()
    assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, nothing, CUDA) == Config(64)
    assert tuning.decisions() == [tuning.Choice("op", "key", {"block": 64, "warps": 4}, "measured", 1 / 64)]
    # Another class of shapes is another question.
    assert tuning.choose("op", "other", lambda: CANDIDATES, by_model, nothing, CUDA) == Config(32)


def test_a_model_decision_is_measured_once_that_is_allowed(clock: list[Config]) -> None:
    assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, nothing, CUDA) == Config(32)
    with tuning.measuring():
        assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, lambda config: config, CUDA) == Config(64)
    assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, nothing, CUDA) == Config(64)
    assert len(clock) == 3


def test_candidates_without_hope_are_not_timed(clock: list[Config]) -> None:
    def steep(config: Config) -> float:
        return float(config.block)

    with tuning.measuring():
        assert tuning.choose("op", "key", lambda: CANDIDATES, steep, lambda config: config, CUDA) == Config(32)
    assert clock == [Config(16), Config(32)]


def test_a_kept_configuration_that_is_no_candidate_any_more_does_not_count(clock: list[Config]) -> None:
    with tuning.measuring():
        tuning.choose("op", "key", lambda: CANDIDATES, by_model, lambda config: config, CUDA)
    forget()
    fewer = [Config(16), Config(32)]
    assert tuning.choose("op", "key", lambda: fewer, by_model, nothing, CUDA) == Config(32)
    assert tuning.decisions()[-1].how == "model"


def test_a_decision_that_was_taken_is_looked_up_and_nothing_else_called() -> None:
    def never(*args: object) -> float:
        raise AssertionError("called although the decision was taken")

    for key in ("one", "other"):
        tuning.choose("op", key, lambda: CANDIDATES, by_model, nothing, CUDA)
        assert tuning.choose("op", key, never, never, never, CUDA) == Config(32)  # type: ignore[arg-type]


def test_nothing_is_measured_while_a_graph_is_captured(clock: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_is_capturing", lambda: True)
    with tuning.measuring():
        assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, nothing, CUDA) == Config(32)
        monkeypatch.setattr(tuning, "_is_capturing", lambda: False)
        assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, lambda config: config, CUDA) == Config(64)
    assert len(clock) == 3


class TooLarge(Exception):
    """Stands for Triton's OutOfResources."""


def test_a_candidate_that_the_device_has_no_room_for_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(call: Callable[[], Config]) -> float:
        if (config := call()).block > 16:
            raise TooLarge
        return 1 / config.block

    monkeypatch.setattr(tuning, "OUT_OF_RESOURCES", (TooLarge,))
    monkeypatch.setattr(tuning, "median_seconds", measure)
    with tuning.measuring():
        assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, lambda config: config, CUDA) == Config(16)
        with pytest.raises(ValueError, match="none of 1 configurations of op that were tried fits Fake-GPU-triton-9"):
            tuning.choose("op", "big", lambda: [Config(64)], by_model, lambda config: config, CUDA)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"op: key": 3}', '{"op: key": {"config": 1, "seconds": 1.0}}'])
def test_a_damaged_file_counts_as_none_and_is_written_anew(clock: list[Config], text: str) -> None:
    path = tuning.table_path("Fake-GPU-triton-9")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert tuning.choose("op", "key", lambda: CANDIDATES, by_model, nothing, CUDA) == Config(32)
    with tuning.measuring():
        tuning.choose("op", "key", lambda: CANDIDATES, by_model, lambda config: config, CUDA)
    assert json.loads(path.read_text()) == {"op: key": {"config": {"block": 64, "warps": 4}, "seconds": 1 / 64}}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_another_process_has_written_meanwhile_stays(clock: list[Config]) -> None:
    # The file is read, and empty.
    assert tuning.choose("op", "first", lambda: CANDIDATES, by_model, nothing, CUDA) == Config(32)
    path = tuning.table_path("Fake-GPU-triton-9")
    path.parent.mkdir(parents=True)
    theirs = {"op: theirs": {"config": {"block": 16, "warps": 4}, "seconds": 0.5}}
    path.write_text(json.dumps(theirs))
    with tuning.measuring():
        tuning.choose("op", "mine", lambda: CANDIDATES, by_model, lambda config: config, CUDA)
    assert json.loads(path.read_text()).keys() == {"op: theirs", "op: mine"}
    assert tuning.choose("op", "theirs", lambda: CANDIDATES, by_model, nothing, CUDA) == Config(16)


@pytest.mark.gpu
def test_on_a_gpu_the_faster_of_two_is_found() -> None:
    x = torch.zeros(1 << 24, device="cuda")

    def run(config: Config) -> None:
        for _ in range(config.block // 16):
            x.add(1.0)

    with tuning.measuring():
        assert tuning.choose("op", "gpu", lambda: CANDIDATES, lambda config: 1.0, run, x.device) == Config(16)
