from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import History, Llama, Method, Trainer
from narrowgauge.train.loggers import Values
from narrowgauge.train.method import ParameterGroup
from narrowgauge.train.phases import Phase, PhasesResult, run_phases
from narrowgauge.train.tree import flatten

MakeTrainer = Callable[..., Trainer]
TIMES = {"tokens_per_s", "step_ms", "memory_bytes"}
STEPS = {"grow": 3, "freeze": 4, "all": 2}


class Stop(Exception):
    """Stands for a kill."""


class Wider(Method):
    """Gives the head a bias."""

    name = "wider"

    def surgery(self, model: nn.Module) -> tuple[nn.Module, None]:
        assert isinstance(model, Llama)
        model.lm_head.bias = nn.Parameter(torch.zeros(256))
        return model, None


class Killer(History):
    def __init__(self, at: int | None) -> None:
        super().__init__()
        self.at = at

    def log(self, step: int, metrics: Values) -> None:
        super().log(step, metrics)
        if step == self.at:
            raise Stop


@pytest.fixture
def run(make_trainer: MakeTrainer) -> Callable[..., PhasesResult]:
    """Three phases: from scratch; the head's bias alone, which surgery adds; everything. One may be killed."""

    def adamw(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=1e-2)

    def run(folder: Path | None, killed: tuple[str, int] | None = None, **settings: Any) -> PhasesResult:
        def build(name: str, model: nn.Module | None) -> Trainer:
            logger = Killer(killed[1] if killed is not None and killed[0] == name else None)
            methods = [Wider()] if name == "freeze" else []
            if model is not None:
                for key, p in model.named_parameters():
                    p.requires_grad_(name == "all" or key.startswith("norm"))
            return make_trainer(model=model, optimizer=adamw, methods=methods, logger=logger, eval_every=2)

        phases = [Phase(name, steps, lambda model, name=name: build(name, model)) for name, steps in STEPS.items()]  # type: ignore[misc]
        return run_phases(phases, folder, **settings)

    return run


def everything(result: PhasesResult) -> dict[str, Tensor]:
    trainer = result.trainer
    return flatten({"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()})[1]


def numbers(result: PhasesResult) -> dict[str, dict[str, float]]:
    return {
        phase: {name: value for name, value in metrics.items() if name not in TIMES}
        for phase, metrics in result.metrics.items()
    }


def assert_same(one: PhasesResult, other: PhasesResult) -> None:
    left, right = everything(one), everything(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(value, right[name]) for name, value in left.items())
    assert numbers(one) == numbers(other)


def test_each_phase_starts_from_the_model_of_the_one_before(run: Callable[..., PhasesResult]) -> None:
    result = run(None)
    assert list(result.metrics) == list(STEPS)
    assert "lm_head.bias" in dict(result.trainer.model.named_parameters())
    assert result.trainer.step == STEPS["all"]
    assert result.metrics["all"]["loss"] < result.metrics["grow"]["loss"] < 5.6


@pytest.mark.parametrize("save_every", [0, 2])
@pytest.mark.parametrize("killed", [("grow", 2), ("freeze", 1), ("freeze", 4), ("all", 2)])
def test_a_run_killed_inside_a_phase_goes_on_to_the_same_bits(
    run: Callable[..., PhasesResult], tmp_path: Path, killed: tuple[str, int], save_every: int
) -> None:
    straight = run(None)
    with pytest.raises(Stop):
        run(tmp_path, killed, save_every=save_every)
    assert_same(run(tmp_path, save_every=save_every), straight)
    assert_same(run(tmp_path, save_every=save_every), straight)  # nothing is left to do
    copies = {path.name for path in (tmp_path / "freeze").iterdir()}
    assert copies == ({"checkpoint", "checkpoint.previous"} if save_every else {"checkpoint"})


def test_killed_before_the_phase_was_noted_as_done(run: Callable[..., PhasesResult], tmp_path: Path) -> None:
    straight = run(tmp_path)
    (tmp_path / "phases.json").unlink()
    again = run(tmp_path)
    assert all(torch.equal(value, everything(again)[name]) for name, value in everything(straight).items())
    assert again.metrics["all"]["val_loss"] == straight.metrics["all"]["val_loss"]


def test_a_folder_of_other_phases_is_refused(run: Callable[..., PhasesResult], tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match=r"folder: .* holds the phases \['grow', 'freeze', 'all'\], these are \['x'\]"):
        run_phases([Phase("x", 1, lambda model: pytest.fail("built"))], tmp_path)


def test_settings_that_do_not_fit_are_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def phase(name: str) -> Phase:
        return Phase(name, 1, lambda _: make_trainer(save_every=1, save_path=tmp_path / "own"))

    with pytest.raises(ValueError, match=r"phases: expected at least one, each with a name of its own, got \[\]"):
        run_phases([])
    with pytest.raises(ValueError, match=r"name of its own, got \['a', 'a'\]"):
        run_phases([phase("a"), phase("a")])
    with pytest.raises(ValueError, match="save_every: expected 0, or more together with a folder, got 2"):
        run_phases([phase("a")], save_every=2)
    with pytest.raises(ValueError, match=r"build: phase 'a' saves to .*own; run_phases does that itself"):
        run_phases([phase("a")], tmp_path)
    for name in ("", "..", "a/b"):
        with pytest.raises(ValueError, match="name: expected the name of a folder"):
            phase(name)
    with pytest.raises(ValueError, match="steps: expected 0 or more, got -1"):
        Phase("a", -1, lambda _: make_trainer())
