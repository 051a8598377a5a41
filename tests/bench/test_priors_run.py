"""Settings and names of the runs of the pipeline of priors."""

from __future__ import annotations

import pytest

from narrowgauge.bench.priors_run import PipelineRun, PipelineSettings

SMALL = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "steps": 5, "recover_steps": 3}


def test_phases_have_their_own_steps_and_learning_rates() -> None:
    settings = PipelineSettings(**SMALL, fine_tune_steps=4, lr=1e-2, fine_tune_lr=2e-3, recover_lr=3e-4)
    phases = {name: settings.phase(name) for name in ("train", "fine-tune", "recover")}
    assert {name: (p.steps, p.lr) for name, p in phases.items()} == {
        "train": (5, 1e-2),
        "fine-tune": (4, 2e-3),
        "recover": (3, 3e-4),
    }
    assert [p.final_lr for p in phases.values()] == [0.3, 0.0, 0.0]
    assert len({(p.dim, p.seq_len, p.weight_decay, p.final_windows) for p in phases.values()}) == 1
    assert settings.total_steps == 15


@pytest.mark.parametrize(
    ("name", "value"), [("fine_tune_steps", 0), ("recover_steps", 0), ("every", 0), ("step_bits", 0), ("step_bits", 21)]
)
def test_settings_that_do_not_fit_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected .*, got {value}"):
        PipelineSettings(**{**SMALL, name: value})


@pytest.mark.parametrize(("given", "message"), [((0, 0.0), "shape"), ((0, 1.0, -1.0), "strength")])
def test_runs_that_are_none_are_refused(given, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}: expected"):
        PipelineRun(*given)


def test_folders_of_runs_are_told_apart() -> None:
    runs = [PipelineRun(0), PipelineRun(1), PipelineRun(0, 1.0), PipelineRun(0, 2.0, 1e-4), PipelineRun(0, 2.0, 2e-4),
            PipelineRun(0, 2.0, 1e-4, "in_loss")]  # fmt: skip
    assert len({run.name for run in runs}) == len(runs)
    assert str(runs[3]) == "seed 0, shape 2, λ/N 0.0001 decoupled"
