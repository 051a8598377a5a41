"""The pipeline of generalized-Gaussian priors beside its baseline, stage by stage.

For each seed two runs of the same batches: `pipeline` (initial weights of shape ν, BackSlash, fine-tuning, DeepShape,
files) and `baseline` (Gaussian initial weights, no rate, the same steps; fp16 and E4M3 files). See
`narrowgauge.bench.priors_phases` for the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from narrowgauge.bench.priors_phases import train_run
from narrowgauge.bench.priors_run import CURVES, PipelineResult, PipelineRun, PipelineSettings
from narrowgauge.bench.priors_stages import Form, Stage
from narrowgauge.bench.training_gaps import document
from narrowgauge.bench.training_runs import train_all
from narrowgauge.train import Logger

BASELINE, PIPELINE = "baseline", "pipeline"
_FILES = (Form.FP32, Form.STEP, Form.RF8)
SHOWN: Mapping[str, tuple[tuple[str, Form], ...]] = {
    BASELINE: (
        ("init", Form.FP32),
        ("trained", Form.FP32),
        ("fine-tuned", Form.FP32),
        ("fine-tuned", Form.FP16),
        *(("recovered", form) for form in (Form.FP32, Form.FP16, Form.E4M3, Form.STEP, Form.RF8)),
    ),
    PIPELINE: (
        ("init", Form.FP32),
        ("trained", Form.FP32),
        *(("fine-tuned", form) for form in _FILES),
        *(("deepshape", form) for form in _FILES),
    ),
}
"""The rows of the table; results have more."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stage, its numbers the means over the seeds. loss_percent: above the baseline's fp16 file, mean over the seeds;
    that of its recovered weights for stages that were trained as long, else that of its fine-tuned ones; None where
    the baseline is not finished. orders: the best ones of the seeds."""

    run: str
    stage: Stage
    file_bits: float
    loss_percent: float | None
    seeds: tuple[int, ...]
    orders: tuple[int, ...]


def plan(seeds: int, shape: float, strength: float, mode: str) -> list[PipelineRun]:
    """Both runs of seeds 0 … seeds - 1, by seed. ValueError for no seeds, and for a pipeline that is its baseline."""
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    if PipelineRun(0, shape, strength, mode).name == PipelineRun(0).name:
        raise ValueError("shape, strength: got those of the baseline, accepted: another shape than 2 or a strength")
    return [run for seed in range(seeds) for run in (PipelineRun(seed), PipelineRun(seed, shape, strength, mode))]


def run_all(
    runs: Sequence[PipelineRun],
    settings: PipelineSettings,
    folder: Path,
    *,
    save_every: int = 200,
    logger: Callable[[str], Logger] | None = None,
    finished: Callable[[PipelineResult, int], None] | None = None,
) -> list[PipelineResult]:
    """Trains what `folder` does not hold yet, as `train_all` does."""
    return train_all(
        runs, settings, folder, train_run, PipelineResult, save_every=save_every, logger=logger, finished=finished
    )


def rows(results: Sequence[PipelineResult]) -> list[Row]:
    """The table: for each of the two runs, the stages of `SHOWN`, over the seeds that did not diverge."""
    whole = [r for r in results if r.stages]
    base = {r.run.seed: r for r in whole if kind_of(r.run) == BASELINE}
    made = []
    for kind, stages in SHOWN.items():
        own = [r for r in whole if kind_of(r.run) == kind]
        if own:
            made += [_row(kind, [(r.run.seed, r.stage(state, form)) for r in own], base) for state, form in stages]
    return made


def kind_of(run: PipelineRun) -> str:
    """Which of the two."""
    return BASELINE if run == PipelineRun(run.seed) else PIPELINE


def _row(kind: str, stages: Sequence[tuple[int, Stage]], base: Mapping[int, PipelineResult]) -> Row:
    first = stages[0][1]
    numbers = [asdict(stage) for _, stage in stages]
    means: dict[str, float] = {}
    for name, value in numbers[0].items():
        if isinstance(value, float):
            means[name] = fmean(n[name] for n in numbers)
    state = "recovered" if first.state in CURVES else "fine-tuned"
    gaps = [100 * (s.loss / base[seed].stage(state, Form.FP16).loss - 1) for seed, s in stages if seed in base]
    mean = Stage(**{**asdict(first), **means, "nbytes": round(fmean(n["nbytes"] for n in numbers))})
    return Row(
        run=kind,
        stage=mean,
        file_bits=fmean(stage.file_bits for _, stage in stages),
        loss_percent=fmean(gaps) if gaps else None,
        seeds=tuple(seed for seed, _ in stages),
        orders=tuple(sorted({stage.order for _, stage in stages})),
    )


def report(results: Sequence[PipelineResult], pending: int, settings: PipelineSettings) -> dict[str, Any]:
    """Everything, for JSON: settings, the table, each run with its stages and curves, machines."""
    return document("priors-pipeline", settings, results, pending, {"rows": rows(results)})
