"""What an experiment claims, and whether the numbers of several seeds bear it out.

A claim compares two numbers of the same seed. Over the seeds, with ``d`` the treatment's number less the control's,
turned so that below zero is better, and ``m`` the claim's margin::

    shown                       the whole 95 % interval of d (Student's t) lies below -m
    opposite                    it lies above both -m and 0
    not shown at this scale     anything else, also a number that is not finite

An experiment's verdict is ``shown`` where every judged claim is, ``opposite`` where one is, else not shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from narrowgauge.train.effect import Effect, paired_effect

SHOWN, NOT_SHOWN, OPPOSITE = "shown", "not shown at this scale", "opposite"
MIN_SEEDS = 2

Values = Mapping[str, float]
"""The named numbers of one seed."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said to happen. ``treatment`` names a number of the run; ``control`` another, or is a number itself.

    ``margin``: by how much the treatment must be better at least, in the number's own unit; below zero it may be worse
    by so much ("as good as"). ``judged``: whether the verdict needs this claim; others are only told.
    """

    text: str
    treatment: str
    control: str | float
    better: Literal["lower", "higher"] = "lower"
    margin: float = 0.0
    judged: bool = True

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise ValueError(f"better: expected 'lower' or 'higher', got {self.better!r}")
        if not math.isfinite(self.margin):
            raise ValueError(f"margin: expected a finite number, got {self.margin!r}")


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim over the seeds: ``treatment`` and ``control`` by seed, their paired difference, the verdict."""

    claim: Claim
    treatment: tuple[float, ...]
    control: tuple[float, ...]
    effect: Effect | None
    verdict: str


def judge(claim: Claim, values: Sequence[Values]) -> Judged:
    """The claim for the numbers of several seeds.

    Raises ``ValueError`` for fewer than two seeds, and for a number that the experiment did not give.
    """
    if len(values) < MIN_SEEDS:
        raise ValueError(f"values: expected those of at least {MIN_SEEDS} seeds, got {len(values)}")
    treatment = tuple(_number(seed, claim.treatment) for seed in values)
    control = tuple(_number(seed, claim.control) for seed in values)
    if not all(math.isfinite(number) for number in treatment + control):
        return Judged(claim, treatment, control, None, NOT_SHOWN)
    effect = paired_effect(claim.text, treatment, control)
    low, high = (effect.low, effect.high) if claim.better == "lower" else (-effect.high, -effect.low)
    return Judged(claim, treatment, control, effect, interval_verdict(low, high, -claim.margin))


def interval_verdict(low: float, high: float, limit: float) -> str:
    """Of an interval that is claimed to lie below a limit; see the module."""
    if high < limit:
        return SHOWN
    return OPPOSITE if low > max(limit, 0.0) else NOT_SHOWN


def joint(verdicts: Sequence[str]) -> str:
    """Of several verdicts together: shown if all are, opposite if one is."""
    if OPPOSITE in verdicts:
        return OPPOSITE
    return SHOWN if verdicts and all(one == SHOWN for one in verdicts) else NOT_SHOWN


def _number(values: Values, key: str | float) -> float:
    if isinstance(key, str):
        if key not in values:
            raise ValueError(f"values: the experiment gave no {key!r}; it gave {', '.join(sorted(values))}")
        return float(values[key])
    return float(key)


def verdict(judged: Sequence[Judged]) -> str:
    """Of all the judged claims together."""
    return joint([result.verdict for result in judged if result.claim.judged])
