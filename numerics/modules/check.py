"""`check_module`: a quantised linear layer against the products of its quantised operands, forward and backward.

Slots that round to nearest are held to the accumulator's bound; those that round stochastically to the neighbours of
each value, call by call, and to the mean and the variance over many calls (mean-independent draws: a biased rounding
shows in the z-score of the result's projection on what is right).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import Scheme, parse
from narrowgauge.formats.operand import OperandScheme, draws_anew
from narrowgauge.formats.slots import GEMMS
from narrowgauge.numerics._arrays import FloatArray, as_float64, place
from narrowgauge.numerics.check_report import CheckReport, Failure
from narrowgauge.numerics.gemms.operands import PLAIN_DTYPES
from narrowgauge.numerics.gemms.precision import unit_roundoff
from narrowgauge.numerics.modules.diagnosis import OUT_OF_BOUND, diagnose
from narrowgauge.numerics.modules.reference import GemmReference, gemm_reference, through_output
from narrowgauge.numerics.modules.run import (
    ModuleCase,
    ModuleResult,
    as_layer,
    in_dtype,
    module_cases,
    parameters,
    run,
    state_bytes,
)
from narrowgauge.numerics.modules.slots import Slots, Upcoming, operands, resolve_slots, slot_operand
from narrowgauge.numerics.modules.unbiased import check_unbiased
from narrowgauge.numerics.statistics import accumulation_bound

RESULTS = {"fprop": ("forward", "y"), "dgrad": ("input gradient", "grad_x"), "wgrad": ("weight gradient", "grad_w")}
CHECKS = ("call", "forward", "input gradient", "weight gradient", "bias gradient", "dtypes and shapes", "determinism",
          "not finite", "state unchanged", "unbiased")  # fmt: skip
SUPPORTED = tuple(PLAIN_DTYPES)


def check_module(
    module: Any,
    recipe: Any = None,
    *,
    inputs: Any = None,
    seeds: int = 48,
    dtypes: Iterable[str] = ("float32", "bfloat16"),
    accumulate: str | float | None = None,
    seed: int = 0,
    subject: str | None = None,
) -> CheckReport:
    """Checks a linear layer Y = X·Wᵀ + b: output, gradients, shapes, dtypes, and what it leaves behind.

    module: a torch module with `weight` [N, K] and perhaps `bias` [N], called with [..., K]. It is copied, not changed.
    recipe: what its six slots are: an object with `slots`, a mapping of slot to scheme, a name that narrowgauge.nn
    knows, or None for `module.recipe`. inputs: [..., K] to try as well. seeds: how many calls are averaged for slots
    with stochastic rounding; each call has to draw anew. dtypes: of parameters and inputs, of float32, bfloat16 and
    float16. accumulate: the accumulator's dtype, or its unit roundoff; None for what the recipe says
    (`accumulate_roundoff`), float32 where it says nothing.

    A layer with the method `upcoming` tells the random streams and stateful scales of its next call, which slots with
    random rotations or stateful scales need. A recipe may say that backward operands are made from the quantised
    forward ones (`requantize`), and that results are quantised (`outputs`). A layer that maps its weight or input
    before it quantises them is checked behind its maps (`without_maps`).

    Returns a report; failures name the slot and the fault where a model explains the result. Raises TypeError and
    ValueError for what is no linear layer and no recipe.
    """
    own = getattr(module, "recipe", None)
    if recipe is None and (getattr(own, "weight_map", None) or getattr(own, "input_map", None)):
        module = module.without_maps()
    layer = as_layer(module)
    slots = resolve_slots(recipe, module)
    chosen = tuple(dtypes)
    if not chosen or any(dtype not in SUPPORTED for dtype in chosen):
        raise ValueError(f"dtypes: got {chosen}, accepted: one or more of {', '.join(SUPPORTED)}")
    if seeds < 8:
        raise ValueError(f"seeds: got {seeds}, accepted: at least 8 calls")
    told = module.recipe if recipe is None else recipe
    if accumulate is None:
        accumulate = getattr(told, "accumulate_roundoff", None) or "float32"
    u = unit_roundoff(accumulate) if isinstance(accumulate, str) else accumulate
    n, k = layer.weight.shape
    given = None if inputs is None else as_float64(inputs, "inputs")
    sampled = getattr(told, "sample", None) is not None
    check = _Check(slots, u, bool(getattr(told, "requantize", False)), _outputs(told), sampled)
    for case in module_cases(k, n, chosen, given, seed):
        check.call(layer, case)
    check.not_finite(layer, k, n, chosen[0], seed)
    if check.stochastic:
        failures, measured = check_unbiased(
            in_dtype(layer, "float32"), slots, seeds, u, seed, requantize=check.requantize, outputs=check.outputs,
            sampled=check.sampled,
        )  # fmt: skip
        check.failures += failures
        check.measurements |= measured
    name = subject or f"{type(module).__name__} {n}x{k}"
    return CheckReport(name, CHECKS, tuple(check.failures), check.measurements)


class _Check:
    """Calls the layer, compares, and collects one failure per check and kind."""

    def __init__(
        self, slots: Slots, accumulate: float, requantize: bool, outputs: dict[str, Scheme | None], sampled: bool
    ) -> None:
        self.slots, self.accumulate, self.requantize, self.outputs = slots, accumulate, requantize, outputs
        self.sampled = sampled
        self.stochastic = any(spec is not None and draws_anew(spec) for spec in slots.values()) or any(
            scheme is not None and scheme.stochastic for scheme in outputs.values()
        )
        self.stochastic = self.stochastic or sampled
        self.stateful = any(isinstance(spec, OperandScheme) and spec.scaling for spec in slots.values())
        self.failures: list[Failure] = []
        self.measurements: dict[str, float] = {}
        self._seen: set[tuple[str, str]] = set()

    def call(self, layer: Any, case: ModuleCase) -> None:
        """Everything that one call shows."""
        copy = in_dtype(layer, case.dtype)
        if self.stateful:
            self._run(copy, replace(case, train=True))  # what is checked is a scale from the past
        before = state_bytes(copy)
        upcoming = _upcoming(copy)
        result = self._run(copy, case)
        if result is None:
            return
        changed = [name for name, value in state_bytes(copy).items() if before.get(name) != value]
        if changed and not self.stateful:
            self._fail("state unchanged", "state changed", f"{', '.join(changed)} differ after the call", case)
        self._shapes(result, case, copy)
        weight, bias = parameters(copy)
        self._products(result, case, weight, bias, upcoming)
        self._bias_gradient(result, case)
        if not self.stochastic and not self.stateful:
            again = self._run(copy, case)
            if again is not None and not _same(result, again):
                self._fail("determinism", "not deterministic", "equal calls give different results", case)

    def not_finite(self, layer: Any, k: int, n: int, dtype: str, seed: int) -> None:
        """A NaN in one token stays where the granularity of the slots lets it be."""
        if self.stochastic:
            return
        (case, *_) = [c for c in module_cases(k, n, (dtype,), None, seed + 1) if c.x.shape[0] > 4]
        x = case.x.copy()
        x[2, k // 3] = np.nan
        broken = ModuleCase("NaN in one token", x, case.g, dtype)
        copy = in_dtype(layer, dtype)
        if self.stateful:
            self._run(copy, case)
        upcoming = _upcoming(copy)
        result = self._run(copy, broken)
        if result is not None:
            weight, bias = parameters(copy)
            self._products(result, broken, weight, bias, upcoming, "not finite")

    def _run(self, layer: Any, case: ModuleCase) -> ModuleResult | None:
        try:
            return run(layer, case)
        except Exception as error:  # anything that a stranger's module may raise
            self._fail("call", f"raised {type(error).__name__}", str(error)[:200], case)
            return None

    def _shapes(self, result: ModuleResult, case: ModuleCase, layer: Any) -> None:
        n, k = layer.weight.shape
        expected = {"y": (*case.x.shape[:-1], n)}
        if case.needs[0]:
            expected["grad_x"] = case.x.shape
        if case.needs[1]:
            expected["grad_w"] = (n, k)
        if getattr(layer, "bias", None) is not None:
            expected["grad_b"] = (n,)
        for name, shape in expected.items():
            if name not in result.shapes:
                self._fail("dtypes and shapes", f"no {name}", f"{name} is missing", case)
            elif result.shapes[name] != shape:
                self._fail("dtypes and shapes", "wrong shape", f"{name} is {result.shapes[name]}, not {shape}", case)
            elif result.dtypes[name] != case.dtype:
                detail = f"{name} has dtype {result.dtypes[name]}, expected {case.dtype}"
                self._fail("dtypes and shapes", "wrong dtype", detail, case)
        for name, wanted in (("grad_x", case.needs[0]), ("grad_w", case.needs[1])):
            if not wanted and name in result.shapes:
                self._fail("dtypes and shapes", "gradient not asked for", f"{name} was computed", case)

    def _products(
        self,
        result: ModuleResult,
        case: ModuleCase,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        upcoming: Upcoming,
        check: str = "",
    ) -> None:
        x, g = case.x.reshape(-1, case.x.shape[-1]), case.g.reshape(-1, case.g.shape[-1])
        matrices = operands(x, weight, g, self.slots if self.requantize else None, upcoming)
        for gemm, (own_check, field) in RESULTS.items():
            actual: FloatArray | None = getattr(result, field)
            if actual is None or (self.sampled and gemm != "fprop"):  # single calls hold a choice of the tokens
                continue
            added = bias.astype(np.float64) if gemm == "fprop" and bias is not None else None
            high = any(self.slots[slot] is None for slot in GEMMS[gemm])
            reference = partial(
                gemm_reference, dtype=case.dtype, accumulate=self.accumulate, high_precision=high, bias=added
            )
            first, second = (
                slot_operand(matrices[slot], self.slots[slot], *upcoming.get(slot, (None, None)))
                for slot in GEMMS[gemm]
            )
            right = reference(first, second)
            output = self.outputs[f"out_{gemm}"]
            if output is not None:
                right = through_output(right, output)
            if actual.shape != right.mean.shape:
                continue
            bad = ~right.agrees(actual)
            self._measure(own_check, actual, right)
            if not bad.any():
                continue
            known = diagnose(gemm, self.slots, matrices, actual, reference, added, upcoming)
            self._fail(check or own_check, known[0], f"{_describe(gemm, actual, right, bad)}; {known[1]}", case)

    def _measure(self, name: str, actual: FloatArray, right: GemmReference) -> None:
        use = np.isfinite(actual) & np.isfinite(right.centre) & (right.reach > 0.0)
        if use.any():
            worst = float((np.abs(actual[use] - right.centre[use]) / right.reach[use]).max())
            key = f"{name}, error / bound"
            self.measurements[key] = max(worst, self.measurements.get(key, 0.0))

    def _bias_gradient(self, result: ModuleResult, case: ModuleCase) -> None:
        actual = result.grad_b
        g = case.g.reshape(-1, case.g.shape[-1]).astype(np.float64)
        if actual is None or actual.shape != (g.shape[1],):
            return
        right, u = g.sum(axis=0), unit_roundoff(case.dtype)
        bound = (accumulation_bound(g.shape[0], self.accumulate) + u) * np.abs(g).sum(axis=0) * (1.0 + u)
        if (np.abs(actual - right) <= bound).all():
            return
        kind = OUT_OF_BOUND
        if not actual.any():
            kind = "result is zero"
        elif (np.abs(actual * g.shape[0] - right) <= 2 * g.shape[0] * bound).all():
            kind = "mean instead of sum"
        elif (np.abs(actual - 2.0 * right) <= 4.0 * bound).all():
            kind = "wrong factor"
        worst = int(np.argmax(np.abs(actual - right) - bound))
        detail = f"element {worst}: got {actual[worst]:.9g}, expected {right[worst]:.9g}, the sum of dY over tokens"
        self._fail("bias gradient", kind, detail, case)

    def _fail(self, check: str, kind: str, detail: str, case: ModuleCase) -> None:
        if (check, kind) not in self._seen:
            self._seen.add((check, kind))
            example = {"case": case.name, "x_shape": list(case.x.shape), "dtype": case.dtype}
            self.failures.append(Failure(check, f"{case.name}: {detail}", kind, example))


def _outputs(recipe: Any) -> dict[str, Scheme | None]:
    """The schemes of Y, dX and dW, None where the recipe has none."""
    told = getattr(recipe, "outputs", None) or {}
    return {f"out_{gemm}": None if told.get(f"out_{gemm}") is None else parse(told[f"out_{gemm}"]) for gemm in GEMMS}


def _upcoming(layer: Any) -> Upcoming:
    """What the layer tells of its next call."""
    tell = getattr(layer, "upcoming", None)
    return tell() if callable(tell) else {}


def _same(first: ModuleResult, second: ModuleResult) -> bool:
    pairs = ((getattr(first, f), getattr(second, f)) for f in ("y", "grad_x", "grad_w", "grad_b"))
    return all(a is b is None or (a is not None and b is not None and np.array_equal(a, b, equal_nan=True))
               for a, b in pairs)  # fmt: skip


def _describe(gemm: str, actual: FloatArray, right: GemmReference, bad: NDArray[np.bool_]) -> str:
    with np.errstate(all="ignore"):
        severity = np.where(bad, np.nan_to_num(np.abs(actual - right.centre) / right.reach, nan=np.inf), -1.0)
    at = place(int(np.argmax(severity)), severity.shape)
    times = severity[at] if math.isfinite(severity[at]) else math.inf
    return (
        f"{gemm}: {int(bad.sum())} of {bad.size} elements are wrong, worst at {at}: got {actual[at]:.9g}, expected "
        f"{right.centre[at]:.9g}, {times:.4g} x the bound {right.reach[at]:.3g}"
    )
