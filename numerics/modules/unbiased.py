"""Stochastic slots over many calls: mean, projection and variance of the three products against what they must be."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.numerics._arrays import FloatArray, place
from narrowgauge.numerics.check_report import Failure
from narrowgauge.numerics.modules.reference import GemmReference, gemm_reference, projected_variance
from narrowgauge.numerics.modules.run import ModuleCase, parameters, run
from narrowgauge.numerics.modules.slots import GEMMS, Slots, operands, slot_operand, stochastic_slots
from narrowgauge.numerics.statistics import Z_LIMIT, z_limit, z_scores

TOKENS = 33
FIELDS = {"fprop": "y", "dgrad": "grad_x", "wgrad": "grad_w"}


def check_unbiased(
    layer: Any, slots: Slots, calls: int, accumulate: float, seed: int
) -> tuple[list[Failure], dict[str, float]]:
    """Failures and measurements of a float32 layer over `calls` calls on one input."""
    n, k = layer.weight.shape
    rng = np.random.default_rng(seed + 2)
    x, g = (rng.standard_normal((TOKENS, size)).astype(np.float32) for size in (k, n))
    case = ModuleCase(f"mean over {calls} calls", x, g)
    try:
        results = [run(layer, case) for _ in range(calls)]
    except Exception as error:  # anything that a stranger's module may raise
        return [Failure("call", f"{case.name}: {error}"[:200], f"raised {type(error).__name__}")], {}
    weight, bias = parameters(layer)
    matrices = operands(x, weight, g)
    failures: list[Failure] = []
    measured: dict[str, float] = {}
    for gemm, field in FIELDS.items():
        drawn = [getattr(result, field) for result in results]
        if not stochastic_slots(gemm, slots) or drawn[0] is None:
            continue
        added = bias.astype(np.float64) if gemm == "fprop" and bias is not None else None
        check = _Mean(gemm, slots, matrices, np.stack(drawn), added, accumulate)
        failures += check.failures()
        measured |= check.measurements
    return failures, measured


class _Mean:
    """One product over many calls."""

    def __init__(
        self, gemm: str, slots: Slots, matrices: dict[str, NDArray[Any]], drawn: FloatArray, bias: FloatArray | None,
        accumulate: float,
    ) -> None:  # fmt: skip
        self.gemm, self.matrices, self.random_slots = gemm, matrices, stochastic_slots(gemm, slots)
        high = any(slots[slot] is None for slot in GEMMS[gemm])
        self.reference = partial(gemm_reference, dtype="float32", accumulate=accumulate, high_precision=high, bias=bias)
        self.count = drawn.shape[0]
        self.mean, self.spread = drawn.mean(axis=0), drawn.var(axis=0, ddof=1)
        self.pair = [slot_operand(matrices[slot], slots[slot]) for slot in GEMMS[gemm]]
        self.right = self.reference(*self.pair)
        self.measurements: dict[str, float] = {}

    def failures(self) -> list[Failure]:
        if not self.right.random:
            return []
        if not self.spread.any():
            kind = self._nearest() or "same random bits in every call"
            return [self._failure(kind, f"all {self.count} results are equal, but a new call has to draw anew")]
        scores = z_scores(self.mean, self.right.mean, self.right.variance / self.count, self.right.slack)
        worst = float(scores.max())
        projections = {"gain": self.right.mean, "offset": np.ones_like(self.right.mean)}
        projected = {name: self._projected(weights) for name, weights in projections.items()}
        self.measurements |= {f"{self.gemm}, largest z": worst, f"{self.gemm}, gain": projected["gain"][0]}
        if worst > z_limit(scores.size) or any(z > Z_LIMIT for _, z in projected.values()):
            return [self._biased(scores, projected)]
        return self._variance()

    def _nearest(self) -> str | None:
        """The kind of fault, if the mean is that of operands of which one or both are rounded to nearest."""
        nearest = list(self.pair)
        for slot, scheme in self.random_slots.items():
            index = GEMMS[self.gemm].index(slot)
            nearest[index] = slot_operand(self.matrices[slot], replace(scheme, stochastic=False))
            pair = list(self.pair)
            pair[index] = nearest[index]
            if self._fits(self.reference(*pair)):
                return f"{slot} rounds to nearest"
        return f"{' and '.join(self.random_slots)} round to nearest" if self._fits(self.reference(*nearest)) else None

    def _fits(self, model: GemmReference) -> bool:
        scores = z_scores(self.mean, model.mean, model.variance / self.count, model.slack)
        return bool(scores.max() <= z_limit(scores.size))

    def _projected(self, weights: FloatArray) -> tuple[float, float]:
        """(ratio of the projections on `weights`, its z-score)."""
        variance = projected_variance(self.pair[0], self.pair[1], weights) / self.count
        actual, expected = float(np.sum(weights * self.mean)), float(np.sum(weights * self.right.mean))
        slack = float(np.sqrt(np.sum(np.square(weights * self.right.slack)))) + 1e-6 * abs(expected)
        excess = max(abs(actual - expected) - slack, 0.0)
        return actual / expected if expected else 1.0, excess / variance**0.5 if variance > 0.0 else 0.0

    def _biased(self, scores: FloatArray, projected: dict[str, tuple[float, float]]) -> Failure:
        kind = self._nearest() or "biased stochastic rounding"
        at = place(int(np.argmax(scores)), scores.shape)
        gain, gain_z = projected["gain"]
        detail = (
            f"the mean over {self.count} calls is off by {scores[at]:.1f} standard deviations at "
            f"{at} (limit {z_limit(scores.size):.1f}): got {self.mean[at]:.9g}, expected "
            f"{self.right.mean[at]:.9g}; gain {gain:.6g} ({gain_z:.1f} standard deviations from 1)"
        )
        return self._failure(kind, f"{detail}; stochastic are {' and '.join(self.random_slots)}")

    def _variance(self) -> list[Failure]:
        """The spread over calls is that of independent draws: less if an operand does not vary, more if it varies too
        much. Elements of one row share an operand, so that only rows (or columns) count as independent."""
        use = self.right.variance > 1e-3 * self.right.variance.max()
        ratio = float((self.spread[use] / self.right.variance[use]).mean())
        self.measurements[f"{self.gemm}, variance / expected"] = ratio
        independent = min(self.right.variance.shape)
        limit = Z_LIMIT * (2.0 / ((self.count - 1) * independent)) ** 0.5
        if abs(ratio - 1.0) <= max(limit, 0.1):
            return []
        kind = "an operand does not vary" if ratio < 1.0 else "results vary too much"
        return [self._failure(kind, f"the variance over {self.count} calls is {ratio:.3g} of what it must be")]

    def _failure(self, kind: str, detail: str) -> Failure:
        return Failure("unbiased", f"{self.gemm}: {detail}", kind, {"gemm": self.gemm, "calls": self.count})
