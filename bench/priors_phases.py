"""One run of the pipeline of generalized-Gaussian priors, which can be killed at any time and goes on to the same bits.

    init        a Llama, its matrices drawn anew with shape ν at the same standard deviations (ν = 2: left as they are)
    trained     `steps` steps, the rate of BackSlash charged with λ/N = `strength` (0: plain training)
    fine-tuned  what would round to zero at 2^-n is zero and stays it; `fine_tune_steps` steps without the rate
    recovered   `recover_steps` steps more: the control of the next
    deepshape   from fine-tuned: matrices reshaped one by one, zeros left out, then the same steps on the same batches

Source: "It Takes a Good Model to Train a Good Model" (arXiv 2506.00486), "BackSlash" (arXiv 2504.16968). Zeros are kept
while training goes on, which neither says: Adam would move every one of them by about a learning rate a step.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.bench.priors_run import CURVES, GAUSSIAN, PipelineResult, PipelineRun, PipelineSettings
from narrowgauge.bench.priors_stages import Form, Stage, matrices, measure
from narrowgauge.bench.training_run import CHECKPOINT, Outcome, finish, fit, initial_model, validation_loss
from narrowgauge.methods.backslash import BackSlash
from narrowgauge.priors import Masks, deepshape, init_, prune_, trade_off
from narrowgauge.train import ByteCorpus, Logger, Method
from narrowgauge.train.method import ParameterGroup

MODEL = "model.ngz"
"""The file of the last stage, which stays in the run's folder."""
CURVE_STEPS = tuple(2.0 ** (-half / 2) for half in range(20, 5, -1))
"""Steps of the rounding curves: 2^-10, 2^-9.5 … 2^-3."""
_RECOVERED_FORMS = (Form.FP32, Form.FP16, Form.E4M3, Form.STEP, Form.RF8)
"""Of the last two stages; the last one's last file stays."""
_STREAM = {"train": 0, "fine-tune": 1_000_003, "recover": 2_000_003}
"""Added to the seed: each phase has batches of its own."""


def initial_weights(run: PipelineRun, settings: PipelineSettings) -> nn.Module:
    """The initial model of a run: that of its seed, or its matrices drawn anew with the run's shape."""
    model = initial_model(run.seed, settings)
    if run.shape == GAUSSIAN:
        return model
    # "all_2d": the embedding too.
    generator = torch.Generator().manual_seed(run.seed)
    return init_(model, run.shape, mode="match", scope="all_2d", generator=generator)


class KeepZeros(Method):
    """Writes the zeros of masks after every step."""

    name = "keep-zeros"

    def __init__(self, masks: Masks) -> None:
        self._masks = masks

    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        """The zeros again."""
        self._masks.apply()


class _Shifted:
    """A logger that counts the steps of all phases."""

    def __init__(self, logger: Logger, by: int) -> None:
        self._logger, self._by = logger, by

    def start(self, first: int, last: int) -> None:
        self._logger.start(first + self._by, last + self._by)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._logger.log(step + self._by, metrics)

    def stop(self) -> None:
        self._logger.stop()


class _Diverged(Exception):
    """Training ended early; the outcome says where."""


class _Phases:
    """Trains the phases of one run, each in a folder below the run's."""

    def __init__(
        self,
        run: PipelineRun,
        settings: PipelineSettings,
        corpus: ByteCorpus,
        folder: Path,
        save_every: int,
        logger: Logger | None,
    ) -> None:
        self.run, self.settings, self.corpus, self.folder = run, settings, corpus, folder
        self.save_every, self.logger = save_every, logger
        self.steps_before = 0
        self.outcomes: dict[str, Outcome] = {}
        self.stages: list[Stage] = []

    def fit(self, model: nn.Module, phase: str, state: str, methods: list[Method]) -> nn.Module:
        """The model after a phase. _Diverged where it ends early."""
        settings = self.settings.phase(phase)
        betas = (settings.beta1, self.settings.beta2)

        def optimizer(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
            return torch.optim.AdamW(
                groups, lr=settings.lr, betas=betas, eps=settings.eps, weight_decay=settings.weight_decay, fused=True
            )

        trainer, outcome = fit(
            model,
            optimizer,
            self.run.seed + _STREAM[phase],
            settings,
            self.corpus,
            self.folder / state,
            save_every=self.save_every,
            methods=methods,
            logger=None if self.logger is None else _Shifted(self.logger, self.steps_before),
        )
        self.steps_before += settings.steps
        self.outcomes[state] = outcome
        if outcome.final_loss is None:
            raise _Diverged
        return trainer.model

    def record(self, model: nn.Module, state: str, form: Form) -> None:
        """Measures a stage; the file is gone afterwards, the last one's apart."""
        outcome = self.outcomes.get(state) if form is Form.FP32 else None
        tokens = self.settings.batch_size * self.settings.seq_len
        path = self.folder / MODEL
        self.stages.append(
            measure(
                model,
                state,
                form,
                path,
                lambda reloaded: validation_loss(reloaded, self.corpus, self.settings),
                step_bits=self.settings.step_bits,
                tokens=self.settings.final_windows * self.settings.seq_len,
                seconds=None if outcome is None else outcome.seconds,
                train_tokens_per_s=None if outcome is None else 1e3 * tokens / outcome.step_ms,
            )
        )

    def all(self) -> dict[str, Any]:
        """Every phase and stage; the rounding curves."""
        model = initial_weights(self.run, self.settings)
        self.record(model, "init", Form.FP32)
        count = sum(p.numel() for p in matrices(model))
        strength = self.run.strength * count
        rate: list[Method] = []
        if strength:
            rate = [BackSlash(strength=strength, every=self.settings.every, mode=self.run.mode, scope="matrices")]
        model = self.fit(model, "train", "trained", rate)
        self.record(model, "trained", Form.FP32)
        masks = prune_(model, threshold=2.0 ** -(self.settings.step_bits + 1)) if strength else None
        model = self.fit(model, "fine-tune", "fine-tuned", _kept(model, masks))
        for form in Form:
            self.record(model, "fine-tuned", form)
        curves = {}
        for state in CURVES:
            tuned = copy.deepcopy(model)
            if state == "deepshape":
                reshape_(tuned, self.settings.shape_scale)
            tuned = self.fit(tuned, "recover", state, _kept(tuned, masks))
            curves[state] = self.curve(tuned)
            for form in _RECOVERED_FORMS:
                self.record(tuned, state, form)
        return curves

    def curve(self, model: nn.Module) -> tuple[tuple[float, float, float, float], ...]:
        """Loss and bits of the model, rounded alone."""
        points = trade_off(
            model,
            lambda rounded: validation_loss(rounded, self.corpus, self.settings),
            (),
            (),
            steps=CURVE_STEPS,
        )
        return tuple((p.step, p.loss, p.entropy, p.best_exp_golomb) for p in points)


@torch.no_grad()
def reshape_(model: nn.Module, shape_scale: float) -> None:
    """DeepShape, method "quantile", of every matrix by itself, in place. Zeros are no part of a sample: two thirds of
    them, which BackSlash leaves, would set the estimated shape, and the rest be driven far into the tails."""
    for name, p in model.named_parameters():
        chosen = p != 0
        if p.ndim >= 2 and bool(chosen.any()):
            p[chosen] = deepshape([p[chosen]], method="quantile", shape_scale=shape_scale, names=[name])[0][0]


def _kept(model: nn.Module, masks: Masks | None) -> list[Method]:
    return [] if masks is None else [KeepZeros(Masks(model, masks.kept))]


def train_run(
    run: PipelineRun,
    settings: PipelineSettings,
    corpus: ByteCorpus,
    folder: Path,
    *,
    save_every: int,
    logger: Logger | None = None,
) -> PipelineResult:
    """Trains from the folder's checkpoints, or from the start, to the end, and writes the result and `model.ngz`, the
    RF8 file of the last stage."""
    phases = _Phases(run, settings, corpus, folder, save_every, logger)
    curves: dict[str, Any] = {}
    try:
        curves = phases.all()
    except _Diverged:
        phases.stages.clear()
    outcomes = list(phases.outcomes.values())
    if outcomes[-1].final_loss is None:
        (folder / MODEL).unlink(missing_ok=True)
    first = {**vars(outcomes[0]), "seconds": sum(o.seconds for o in outcomes)}
    last = {"final_loss": outcomes[-1].final_loss, "note": outcomes[-1].note}
    result = finish(folder, PipelineResult(**{**first, **last}, run=run, stages=tuple(phases.stages), curves=curves))
    for state in phases.outcomes:
        for left in (CHECKPOINT, f"{CHECKPOINT}.previous"):
            shutil.rmtree(folder / state / left, ignore_errors=True)
    return result
