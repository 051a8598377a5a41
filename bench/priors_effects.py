"""What generalized-Gaussian priors are said to do, each beside its control over the same seeds, with a verdict.

    init        initial weights of shape ν: the validation curve, mean gap to that of Gaussian ones of the same
                standard deviations
    backslash   Exp-Golomb bits per parameter (k = 0, step 2^-n) cut by half at most 2 % more loss, after fine-tuning
    deepshape   Exp-Golomb bits per parameter (best k) at the loss 1 % above the control's, both recovered for the same
                steps and rounded to coarser and coarser steps
    rf8         the loss of weights cast to RF8 (a scale for each row) beside fp16

A check is a claim `value < limit` of a difference in percent. With Student's interval of 95 % over the seeds it is

    shown                       the whole interval is below the limit
    opposite                    the whole interval is above the limit, and above zero
    not shown at this scale     anything else

and an effect of several checks is shown if all are, opposite if one is. Sources: arXiv 2506.00486 and 2504.16968; the
limits are ours, the papers give none for models of this size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from narrowgauge.bench.priors_run import PipelineResult, PipelineRun, PipelineSettings
from narrowgauge.bench.priors_stages import Form
from narrowgauge.bench.training_gaps import document
from narrowgauge.train import NOT_SHOWN, Effect, paired_effect
from narrowgauge.train.claims import interval_verdict, joint

EQUAL_PERCENT, CUT_PERCENT, LOSS_PERCENT, MATCH_PERCENT, RF8_PERCENT = 0.5, -50.0, 2.0, 1.0, 0.5
ALSO_MATCHED = (0.5, 2.0)
MIN_SEEDS = 2
_ENTROPY, _EXP_GOLOMB = 2, 3
"""Columns of a rounding curve."""

Pairs = Sequence[tuple[PipelineResult, PipelineResult]]
"""(treatment, control) of each seed."""
Curve = Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One number of an effect. values: percent, one for each seed, None where it does not exist. effect: their mean
    with its interval, None where one is missing. limit: None where the number has no claim. judged: whether the
    effect's verdict needs it; other numbers are only told."""

    metric: str
    values: tuple[float | None, ...]
    effect: Effect | None
    limit: float | None
    judged: bool
    verdict: str
    treatment: float | None
    control: float | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An effect: claim, which runs against which, checks, verdict of all that have a limit."""

    name: str
    claim: str
    treatment: str
    control: str
    seeds: tuple[int, ...]
    checks: tuple[Check, ...]
    verdict: str


def verdict_of(effect: Effect | None, limit: float) -> str:
    """See the module; without an effect nothing is shown."""
    return NOT_SHOWN if effect is None else interval_verdict(effect.low, effect.high, limit)


def check(
    metric: str, pairs: Sequence[tuple[float | None, float | None]], limit: float | None, *, judged: bool = True
) -> Check:
    """Of (treatment, control) for each seed: values 100 · (treatment / control - 1). Without a limit none is judged."""
    values = tuple(None if t is None or c is None else 100 * (t / c - 1) for t, c in pairs)
    known = [value for value in values if value is not None]
    complete = len(known) == len(values) >= MIN_SEEDS
    effect = paired_effect(metric, known, [0.0] * len(known)) if complete else None
    return Check(
        metric=metric,
        values=values,
        effect=effect,
        limit=limit,
        judged=judged and limit is not None,
        verdict="" if limit is None else verdict_of(effect, limit),
        treatment=_mean([t for t, _ in pairs]),
        control=_mean([c for _, c in pairs]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def bits_at_loss(curve: Curve, loss: float, column: int) -> float | None:
    """Bits per parameter (a column of the curve) where a curve, finest step first, first exceeds a loss;
    linear in the loss between its neighbours. None where the finest step exceeds it already or no step does."""
    for finer, coarser in pairwise(curve):
        if finer[1] > loss:
            return None
        if coarser[1] > loss:
            share = (loss - finer[1]) / (coarser[1] - finer[1])
            return finer[column] + share * (coarser[column] - finer[column])
    return None


def steps_to(curve: tuple[Sequence[int], Sequence[float]], loss: float) -> float | None:
    """The step at which a validation curve first reaches a loss, linear between its points; None if never."""
    before: tuple[float, float] | None = None
    for step, at in zip(*curve, strict=True):
        if at <= loss:
            if before is None or before[1] == at:
                return float(step)
            return before[0] + (before[1] - loss) / (before[1] - at) * (step - before[0])
        before = float(step), at
    return None


def plan(seeds: int, shapes: Sequence[float], strength: float, mode: str) -> list[PipelineRun]:
    """All runs, by seed: the baseline, each shape without the rate, the rate with the Gaussian and with the first
    shape. ValueError for fewer than two seeds, no shapes, shape 2 and no strength."""
    if seeds < MIN_SEEDS:
        raise ValueError(f"seeds: expected at least {MIN_SEEDS}, got {seeds}")
    if not shapes or len(set(shapes)) != len(shapes) or 2.0 in shapes:
        raise ValueError(f"shapes: got {list(shapes)}, accepted: at least one, each once, and not the baseline's 2")
    if not strength > 0:
        raise ValueError(f"strength: expected a number above 0, got {strength}")
    arms = [PipelineRun(0), *(PipelineRun(0, shape) for shape in shapes),
            PipelineRun(0, 2.0, strength, mode), PipelineRun(0, shapes[0], strength, mode)]  # fmt: skip
    return [PipelineRun(seed, arm.shape, arm.strength, arm.mode) for seed in range(seeds) for arm in arms]


def findings(results: Sequence[PipelineResult], shapes: Sequence[float], strength: float, mode: str) -> list[Finding]:
    """Every effect of which at least two seeds are finished with both its runs."""
    by_run = {r.run: r for r in results}
    plain, rate = PipelineRun(0), PipelineRun(0, 2.0, strength, mode)
    both = PipelineRun(0, shapes[0], strength, mode)
    wanted: list[tuple[Callable[[Pairs, str, str], Finding], PipelineRun, PipelineRun]] = [
        *((_init, PipelineRun(0, shape), plain) for shape in shapes),
        (_init, both, rate),
        (_backslash, rate, plain),
        (_backslash, both, plain),
        *((_deepshape, run, run) for run in (plain, rate, both)),
        *((_rf8, run, run) for run in (plain, rate, both)),
    ]
    made = []
    for judge, treatment, control in wanted:
        pairs = _pairs(by_run, treatment, control)
        if len(pairs) >= MIN_SEEDS:
            made.append(judge(pairs, describe(treatment), describe(control)))
    return made


def describe(run: PipelineRun) -> str:
    """`shape 1, λ/N 0.0001`, without the seed."""
    return str(run).partition(", ")[2]


def _pairs(by_run: Mapping[PipelineRun, PipelineResult], treatment: PipelineRun, control: PipelineRun) -> Pairs:
    def of(run: PipelineRun, seed: int) -> PipelineResult | None:
        return by_run.get(PipelineRun(seed, run.shape, run.strength, run.mode))

    seeds = sorted({run.seed for run in by_run})
    found = [(of(treatment, seed), of(control, seed)) for seed in seeds]
    return [(t, c) for t, c in found if t is not None and c is not None]


def _finding(name: str, claim: str, pairs: Pairs, treatment: str, control: str, checks: Sequence[Check]) -> Finding:
    return Finding(
        name=name,
        claim=claim,
        treatment=treatment,
        control=control,
        seeds=tuple(t.run.seed for t, _ in pairs),
        checks=tuple(checks),
        verdict=joint([c.verdict for c in checks if c.judged]),
    )


def _number(result: PipelineResult, state: str, form: Form, field: str) -> float | None:
    """Of a stage; None where the run diverged."""
    return float(getattr(result.stage(state, form), field)) if result.stages else None


def _both(pairs: Pairs, state: str, form: Form, field: str) -> list[tuple[float | None, float | None]]:
    return [(_number(t, state, form, field), _number(c, state, form, field)) for t, c in pairs]


def _area(result: PipelineResult) -> float | None:
    return fmean(result.val_curve[1]) if result.stages else None


def _init(pairs: Pairs, treatment: str, control: str) -> Finding:
    area = [(_area(t), _area(c)) for t, c in pairs]
    finals = [c.val_curve[1][-1] if t.stages and c.stages else math.inf for t, c in pairs]
    reached = [
        (steps_to(t.val_curve, at) if t.stages else None, steps_to(c.val_curve, at) if c.stages else None)
        for (t, c), at in zip(pairs, finals, strict=True)
    ]
    checks = [
        check("mean of the validation curve", area, EQUAL_PERCENT),
        check("the same, faster", area, 0.0, judged=False),
        check("loss at the end of training", _both(pairs, "trained", Form.FP32, "loss"), None),
        check("steps to the control's last loss", reached, None),
    ]
    claim = f"converges as fast as Gaussian initial weights (within {EQUAL_PERCENT:g} %) or faster"
    return _finding("init", claim, pairs, treatment, control, checks)


def _backslash(pairs: Pairs, treatment: str, control: str) -> Finding:
    state = "fine-tuned"
    checks = [
        check("Exp-Golomb bits, k = 0", _both(pairs, state, Form.STEP, "exp_golomb_0"), CUT_PERCENT),
        check("loss", _both(pairs, state, Form.FP32, "loss"), LOSS_PERCENT),
        check("loss, rounded to the step", _both(pairs, state, Form.STEP, "loss"), None),
        check("Exp-Golomb bits, best k", _both(pairs, state, Form.STEP, "exp_golomb"), None),
        check("entropy", _both(pairs, state, Form.STEP, "entropy"), None),
        check("file", _both(pairs, state, Form.STEP, "nbytes"), None),
    ]
    claim = f"cuts Exp-Golomb bits per parameter by {-CUT_PERCENT:g} % at {LOSS_PERCENT:g} % more loss at most"
    return _finding("backslash", claim, pairs, treatment, control, checks)


def _deepshape(pairs: Pairs, treatment: str, control: str) -> Finding:
    def matched(column: int, percent: float) -> list[tuple[float | None, float | None]]:
        found: list[tuple[float | None, float | None]] = []
        for result, _ in pairs:
            if not result.stages:
                found.append((None, None))
                continue
            curve = result.curves["recovered"]
            loss = curve[0][1] * (1 + percent / 100)
            found.append((bits_at_loss(result.curves["deepshape"], loss, column), bits_at_loss(curve, loss, column)))
        return found

    def at_step(field: str) -> list[tuple[float | None, float | None]]:
        return [
            (_number(r, "deepshape", Form.STEP, field), _number(r, "recovered", Form.STEP, field)) for r, _ in pairs
        ]

    checks = [
        check(f"Exp-Golomb bits, best k, at {MATCH_PERCENT:g} % more loss", matched(_EXP_GOLOMB, MATCH_PERCENT), 0.0),
        *(check(f"the same at {percent:g} %", matched(_EXP_GOLOMB, percent), None) for percent in ALSO_MATCHED),
        check(f"entropy at {MATCH_PERCENT:g} %", matched(_ENTROPY, MATCH_PERCENT), None),
        check("entropy at the step", at_step("entropy"), None),
        check("loss at the step", at_step("loss"), None),
    ]
    claim = f"fewer bits per parameter at the loss {MATCH_PERCENT:g} % above that of recovered weights"
    return _finding("deepshape", claim, pairs, f"{treatment}, reshaped", control, checks)


def _rf8(pairs: Pairs, treatment: str, control: str) -> Finding:
    def beside_fp16(form: Form) -> list[tuple[float | None, float | None]]:
        half = [_number(r, "fine-tuned", Form.FP16, "loss") for r, _ in pairs]
        return [(_number(r, "fine-tuned", form, "loss"), h) for (r, _), h in zip(pairs, half, strict=True)]

    checks = [
        check("loss, rf8/row", beside_fp16(Form.RF8_ROW), RF8_PERCENT),
        check("loss, RF8 of the file", beside_fp16(Form.RF8), None),
        check("loss, e4m3fn/row", beside_fp16(Form.E4M3), None),
    ]
    claim = f"loss within {RF8_PERCENT:g} % of fp16"
    return _finding("rf8", claim, pairs, f"{treatment}, rf8/row", f"{control}, fp16", checks)


def report(
    results: Sequence[PipelineResult],
    pending: int,
    settings: PipelineSettings,
    shapes: Sequence[float],
    strength: float,
    mode: str,
) -> dict[str, Any]:
    """Everything, for JSON: settings, findings, each run with its stages and curves, machines."""
    chosen = {"shapes": list(shapes), "strength": strength, "mode": mode}
    found = findings(results, shapes, strength, mode)
    return document("priors", settings, results, pending, {"runs_of": chosen, "findings": found})
