"""Stochastic slots over many calls: mean, projection and variance of the three products against what they must be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import Scheme
from narrowgauge.formats.operand import AnyScheme, OperandScheme
from narrowgauge.formats.slots import GEMMS
from narrowgauge.numerics._arrays import FloatArray, place
from narrowgauge.numerics.check_report import Failure
from narrowgauge.numerics.modules.reference import GemmReference, gemm_reference, projected_variance
from narrowgauge.numerics.modules.run import ModuleCase, parameters, run
from narrowgauge.numerics.modules.slots import Slots, operands, slot_operand, stochastic_slots, to_nearest
from narrowgauge.numerics.statistics import Z_LIMIT, z_limit, z_scores

TOKENS = 33
FIELDS = {"fprop": "y", "dgrad": "grad_x", "wgrad": "grad_w"}


def check_unbiased(
    layer: Any,
    slots: Slots,
    calls: int,
    accumulate: float,
    seed: int,
    *,
    requantize: bool = False,
    outputs: Mapping[str, Scheme | None] | None = None,
    sampled: bool = False,
) -> tuple[list[Failure], dict[str, float]]:
    """Failures and measurements of a float32 layer over `calls` calls on one input. A product whose rotation is drawn
    anew is held to the product of what both operands come from, if both are rounded stochastically; so is one of an
    operand whose values are bent. outputs: schemes of the results. sampled: backward sums a random choice of tokens."""
    n, k = layer.weight.shape
    rng = np.random.default_rng(seed + 2)
    x, g = (rng.standard_normal((TOKENS, size)).astype(np.float32) for size in (k, n))
    case = ModuleCase(f"mean over {calls} calls", x, g)
    try:
        results = [run(layer, case) for _ in range(calls)]
    except Exception as error:  # anything that a stranger's module may raise
        return [Failure("call", f"{case.name}: {error}"[:200], f"raised {type(error).__name__}")], {}
    weight, bias = parameters(layer)
    forward_is_random = any(stochastic_slots("fprop", slots))
    matrices = operands(x, weight, g, slots if requantize and not forward_is_random else None)
    failures: list[Failure] = []
    measured: dict[str, float] = {}
    for gemm, field in FIELDS.items():
        drawn = [getattr(result, field) for result in results]
        random = stochastic_slots(gemm, slots)
        chooses = sampled and gemm != "fprop"
        if not (random or chooses) or drawn[0] is None:
            continue
        turned = any(turns_anew(slots[slot]) for slot in GEMMS[gemm])
        if turned or chooses or any(bends(slots[slot]) for slot in random):
            if not turned or len(random) == 2:
                sources = [_source(matrices[slot], slots[slot]) for slot in GEMMS[gemm]]
                failures += _against_sources(gemm, sources, np.stack(drawn), measured, chooses)
            continue
        added = bias.astype(np.float64) if gemm == "fprop" and bias is not None else None
        output = (outputs or {}).get(f"out_{gemm}")
        check = _Mean(gemm, slots, matrices, np.stack(drawn), added, accumulate, output)
        failures += check.failures()
        measured |= check.measurements
    return failures, measured


def turns_anew(spec: AnyScheme | None) -> bool:
    """Whether the slot's rotation is drawn in every call."""
    return isinstance(spec, OperandScheme) and spec.rotation is not None and spec.rotation.random


def bends(spec: AnyScheme | None) -> bool:
    """Whether what the slot's codes mean is not linear in them."""
    return isinstance(spec, OperandScheme) and not all(stage.linear for stage in spec.stages)


def _source(x: NDArray[Any], spec: AnyScheme | None) -> FloatArray:
    """What an operand is on average: x itself if it is rounded stochastically."""
    if spec is not None and spec.stochastic:
        return np.asarray(x, dtype=np.float64)
    return slot_operand(x, spec).mean


def _against_sources(
    gemm: str, sources: list[FloatArray], drawn: FloatArray, measured: dict[str, float], chooses: bool
) -> list[Failure]:
    """The mean over calls against the product of what was rounded: gain of the projection on it, and each element, by
    the spread that the calls show. chooses: few calls hold a given token, so that single elements say nothing."""
    a, b = sources
    right, calls = a @ b.T, drawn.shape[0]
    gains = (drawn * right).sum(axis=(1, 2)) / np.square(right).sum()
    gain, error = float(gains.mean()), float(gains.std(ddof=1)) / calls**0.5
    slack = 1e-5 * np.abs(a) @ np.abs(b).T
    scores = z_scores(drawn.mean(axis=0), right, drawn.var(axis=0, ddof=1) / calls, slack)
    measured |= {f"{gemm}, gain": gain, f"{gemm}, largest z": float(scores.max())}
    if not drawn.var(axis=0).any():
        kind = "same random bits in every call"
        return [Failure("unbiased", f"{gemm}: all {calls} results are equal, but a new call has to draw anew", kind)]
    # The spread is an estimate: its own chance widens the limit of single elements by half.
    if abs(gain - 1.0) <= Z_LIMIT * error + 1e-5 and (chooses or scores.max() <= 1.5 * z_limit(scores.size)):
        return []
    detail = f"{gemm}: gain {gain:.6g} ± {error:.2g} over {calls} calls, largest z {scores.max():.1f}"
    return [Failure("unbiased", detail, "biased stochastic rounding", {"gemm": gemm, "calls": calls})]


class _Mean:
    """One product over many calls."""

    def __init__(
        self, gemm: str, slots: Slots, matrices: dict[str, NDArray[Any]], drawn: FloatArray, bias: FloatArray | None,
        accumulate: float, output: Scheme | None = None,
    ) -> None:  # fmt: skip
        self.gemm, self.matrices, self.random_slots = gemm, matrices, stochastic_slots(gemm, slots)
        high = any(slots[slot] is None for slot in GEMMS[gemm])
        self.reference = partial(gemm_reference, dtype="float32", accumulate=accumulate, high_precision=high, bias=bias)
        self.count, self.output = drawn.shape[0], output
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
        # A result that is rounded stochastically spreads more, by what depends on its own scale.
        return [] if self.output is not None and self.output.stochastic else self._variance()

    def _nearest(self) -> str | None:
        """The kind of fault, if the mean is that of operands of which one or both are rounded to nearest."""
        nearest = list(self.pair)
        for slot, scheme in self.random_slots.items():
            index = GEMMS[self.gemm].index(slot)
            nearest[index] = slot_operand(self.matrices[slot], to_nearest(scheme))
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
