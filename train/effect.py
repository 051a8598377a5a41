"""The result of a paired comparison: how much a treatment changed a number, and how sure that is."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """``difference`` = mean of treatment - control over ``n`` pairs, with its interval ``[low, high]``.

    A pair shares seed, initial weights and batches. For a loss, an interval below 0 means that the treatment
    helped.
    """

    metric: str
    treatment: float
    control: float
    difference: float
    low: float
    high: float
    n: int
    confidence: float

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high < 0

    def __str__(self) -> str:
        means = f"{self.metric}: {self.treatment:.4f} against {self.control:.4f}"
        interval = f"{self.confidence:.0%} interval {self.low:+.4f} … {self.high:+.4f}, {self.n} pairs"
        return f"{means}, difference {self.difference:+.4f} ({interval})"


def paired_effect(
    metric: str, treatment: Sequence[float], control: Sequence[float], *, confidence: float = 0.95
) -> Effect:
    """Mean paired difference with Student's t interval: ``mean ± t(n-1) · s / sqrt(n)``.

    Raises ``ValueError`` for fewer than two pairs, unequal lengths, or a confidence outside (0, 1).
    """
    if len(treatment) != len(control) or len(control) < 2:
        raise ValueError(
            "treatment, control: expected the same number of values, at least 2,"
            f" got {len(treatment)} and {len(control)}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number in (0, 1), got {confidence!r}")
    differences = [t - c for t, c in zip(treatment, control, strict=True)]
    n, mean = len(differences), statistics.fmean(differences)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * statistics.stdev(differences) / math.sqrt(n)
    return Effect(
        metric=metric,
        treatment=statistics.fmean(treatment),
        control=statistics.fmean(control),
        difference=mean,
        low=mean - half,
        high=mean + half,
        n=n,
        confidence=confidence,
    )
