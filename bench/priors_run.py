"""The pipeline of generalized-Gaussian priors as runs: which run with which settings, and what is kept of it.

What a run does is in `narrowgauge.bench.priors_phases`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from narrowgauge.bench.priors_stages import Form, Stage
from narrowgauge.bench.training_run import Trained, TrainingSettings

GAUSSIAN = 2.0
CURVES = ("recovered", "deepshape")
STATES = ("init", "trained", "fine-tuned", *CURVES)


@dataclass(frozen=True, kw_only=True)
class PipelineSettings(TrainingSettings):
    """A model of a few 100 k parameters, and phases that take about a minute on one core.

    final_lr: of the first phase; the others end at 0. BackSlash pulls without a learning rate, so that nothing holds
    the weights once the task's own steps have ended. fine_tune_lr, recover_lr: peaks of phases two and three. every:
    steps between estimates of ν. step_bits: n of the step 2^-n. shape_scale: of DeepShape, see
    `narrowgauge.bench.priors_phases.reshape_`.
    """

    dim: int = 128
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    ffn_dim: int = 384
    seq_len: int = 64
    batch_size: int = 8
    steps: int = 1000
    fine_tune_steps: int = 1000
    recover_steps: int = 200
    lr: float = 2e-3
    final_lr: float = 0.3
    fine_tune_lr: float = 2e-3
    recover_lr: float = 5e-4
    beta2: float = 0.95
    every: int = 5
    step_bits: int = 8
    shape_scale: float = 0.8
    evaluations: int = 10
    final_windows: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fine_tune_steps", "recover_steps", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 1 <= self.step_bits <= 20:
            raise ValueError(f"step_bits: expected 1 to 20, got {self.step_bits}")
        for phase in ("fine-tune", "recover"):
            self.phase(phase)

    def phase(self, name: str) -> TrainingSettings:
        """The settings of "train", "fine-tune" or "recover"."""
        if name == "train":
            return self
        steps, lr = {
            "fine-tune": (self.fine_tune_steps, self.fine_tune_lr),
            "recover": (self.recover_steps, self.recover_lr),
        }[name]
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(TrainingSettings)}
        return TrainingSettings(**{**plain, "steps": steps, "lr": lr, "final_lr": 0.0})

    @property
    def total_steps(self) -> int:
        """Steps of a run: recovery is trained twice."""
        return self.steps + self.fine_tune_steps + 2 * self.recover_steps


@dataclass(frozen=True)
class PipelineRun:
    """shape: ν of the initial weights, 2 for the Gaussian ones. strength: λ/N, 0 for none. mode: of BackSlash."""

    seed: int
    shape: float = GAUSSIAN
    strength: float = 0.0
    mode: str = "decoupled"

    def __post_init__(self) -> None:
        if not self.shape > 0:
            raise ValueError(f"shape: expected a number above 0, got {self.shape}")
        if not self.strength >= 0:
            raise ValueError(f"strength: expected a number of at least 0, got {self.strength}")

    @property
    def name(self) -> str:
        """Of its folder."""
        rate = f"rate{self.strength:g}-{self.mode}" if self.strength else "plain"
        return f"seed{self.seed}-shape{self.shape:g}-{rate}"

    @property
    def arm(self) -> PipelineRun:
        """The same of seed 0."""
        return dataclasses.replace(self, seed=0)

    def __str__(self) -> str:
        rate = f"λ/N {self.strength:g} {self.mode}" if self.strength else "no rate"
        return f"seed {self.seed}, shape {self.shape:g}, {rate}"


@dataclass(frozen=True, kw_only=True)
class PipelineResult(Trained):
    """A finished run. What `Trained` has is that of the phase "train"; but final_loss and note are of the last phase,
    and seconds of all.

    stages: in order; empty where training diverged. curves: "recovered" and "deepshape" → (step, loss, entropy,
    Exp-Golomb bits of the best order) of their matrices rounded to coarser and coarser steps, finest first.
    """

    run: PipelineRun
    stages: tuple[Stage, ...]
    curves: Mapping[str, tuple[tuple[float, float, float, float], ...]]

    def __post_init__(self) -> None:
        # From a file come plain objects.
        made = tuple(s if isinstance(s, Stage) else Stage(**s) for s in self.stages)
        object.__setattr__(self, "stages", made)
        curves = {name: tuple(tuple(point) for point in curve) for name, curve in self.curves.items()}
        object.__setattr__(self, "curves", curves)

    def stage(self, state: str, form: Form | str) -> Stage:
        """One of the stages. ValueError where there is none."""
        for stage in self.stages:
            if (stage.state, stage.form) == (state, str(form)):
                return stage
        raise ValueError(f"stage: {self.run} has no {state!r} as {str(form)!r}")
