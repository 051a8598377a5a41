"""`check_gemm`: any matrix product against the float64 product of its operands, and the name of what is wrong with it.

The limit is the deterministic rounding-error bound of `numerics/gemms/precision.py`. The probabilistic bound and
ω / (√n · u), ω = max |Ĉ - C| / |A||B|, are measurements: biased data (all positive) exceed them rightly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from narrowgauge.formats import Scheme
from narrowgauge.numerics._arrays import FloatArray, as_float64, is_tensor, place
from narrowgauge.numerics.check_report import CheckReport, Failure
from narrowgauge.numerics.gemms.cases import CASE_CHECKS, LONG_K, SHAPES, CasePlan, GemmCase, gemm_cases
from narrowgauge.numerics.gemms.diagnosis import Outcome, choose, explanations, outcome
from narrowgauge.numerics.gemms.operands import Handover, operand_spec
from narrowgauge.numerics.gemms.precision import Arithmetic, unit_roundoff
from narrowgauge.numerics.statistics import probabilistic_bound

CALL_CHECKS = ("call", "output shape and dtype", "operands unchanged", "determinism")
POISON_BLOCKS = 4


def check_gemm(
    fn: Callable[..., Any],
    a_scheme: Scheme | str,
    b_scheme: Scheme | str | None = None,
    *,
    out_dtype: str = "float32",
    accumulate: str | float = "float32",
    chunk: int | None = None,
    transposed: str = "nt",
    operands: str = "codes",
    bias: bool = False,
    as_tensor: bool = False,
    device: Any = None,
    shapes: Iterable[tuple[int, int, int]] | None = None,
    multiples: tuple[int, int, int] = (1, 1, 1),
    long_k: int = LONG_K,
    skip: Iterable[str] = (),
    deterministic: bool = True,
    flushes_subnormals: bool = False,
    seed: int = 0,
    subject: str | None = None,
) -> CheckReport:
    """Calls `fn` on ragged, cancelling, long, one-hot, strided, empty and non-finite operands; compares with float64.

    fn: with `operands="codes"` it gets (a_codes, a_scale, b_codes, b_scale): a [M, K] and b [N, K] as codes of the
    schemes, scales of `Scheme.scale_shape` (float32, or the scale codes of block formats; of two-level formats the
    float32 factors, block scale times outer scale). With `operands="values"`, and wherever a scheme is a plain dtype
    (float32, bfloat16, float16), it gets the dequantised values instead: (a, b). With `bias=True` a float32 [N]
    follows. It returns [M, N].
    a_scheme, b_scheme: schemes as text or object; b_scheme is a_scheme if None.
    out_dtype: float32, bfloat16, float16 or float64. numpy lacks bfloat16: float32 that holds its values will do.
    accumulate: float32, float64, float16, bfloat16, int32 (exact sums of integer codes), or a unit roundoff, 2^-23 for
    a float32 accumulator that truncates. chunk: products per partial sum, if sums are made in two stages.
    transposed: how a and b lie, as BLAS calls it: "nt" as above; b is [K, N] for "n" and a is [K, M] for "t".
    as_tensor, device: torch tensors instead of numpy arrays, and where.
    shapes: (M, N, K) to try besides the named cases. multiples: M, N and K are rounded up to them, for functions that
    take no others. long_k: K of the longest sums. skip: checks to leave out, of `CASE_CHECKS`. deterministic: equal
    calls have to give equal bits. flushes_subnormals: float32 numbers below 2^-126 may count as zero.

    Returns a report; its failures name the kind of fault where a model explains what came out. ValueError and TypeError
    for arguments that mean nothing; an exception of `fn` is a failure.
    """
    plan, handover = _plan(a_scheme, b_scheme, operands, transposed, as_tensor, device, bias, seed)
    chosen = SHAPES if shapes is None else tuple(shapes)
    plan = replace(plan, shapes=chosen, multiples=multiples, long_k=long_k)
    left_out = set(skip)
    if left_out - set(CASE_CHECKS):
        raise ValueError(f"skip: got {sorted(left_out - set(CASE_CHECKS))}, accepted: {', '.join(CASE_CHECKS)}")
    arithmetic = Arithmetic.of(accumulate, out_dtype, chunk, flushes_subnormals)
    run = _Run(fn, handover, arithmetic, deterministic)
    for case in gemm_cases(plan, left_out):
        run.call(case)
    checks = (*CALL_CHECKS, *(name for name in CASE_CHECKS if name not in left_out))
    failures = (*run.failures, *_failures(run.outcomes))
    name = subject or getattr(fn, "__name__", type(fn).__name__)
    text = f"{name} ({plan.a} x {plan.b} -> {out_dtype})"
    return CheckReport(text, checks, failures, _measurements(run.outcomes))


def _plan(
    a_scheme: Scheme | str, b_scheme: Scheme | str | None, operands: str, transposed: str, as_tensor: bool,
    device: Any, bias: bool, seed: int,
) -> tuple[CasePlan, Handover]:  # fmt: skip
    if operands not in ("codes", "values"):
        raise ValueError(f"operands: got {operands!r}, accepted: 'codes', 'values'")
    if transposed not in ("nt", "nn", "tn", "tt"):
        raise ValueError(f"transposed: got {transposed!r}, accepted: 'nt', 'nn', 'tn', 'tt'")
    if device is not None and not as_tensor:
        raise ValueError(f"device: got {device!r} without as_tensor=True, accepted: None for numpy arrays")
    a = operand_spec(a_scheme, "a_scheme")
    b = a if b_scheme is None else operand_spec(b_scheme, "b_scheme")
    coded = operands == "codes" and isinstance(a, Scheme) and isinstance(b, Scheme)
    return CasePlan(a, b, coded=coded, bias=bias, seed=seed), Handover(coded, transposed, as_tensor, device)


class _Run:
    """Calls a function case by case, and keeps what came of it."""

    def __init__(self, fn: Callable[..., Any], handover: Handover, arithmetic: Arithmetic, deterministic: bool) -> None:
        self.fn, self.handover, self.arithmetic, self.deterministic = fn, handover, arithmetic, deterministic
        self.outcomes: list[Outcome] = []
        self.failures: list[Failure] = []
        self._raised: set[str] = set()

    def call(self, case: GemmCase) -> None:
        actual = self._result(case)
        if actual is None:
            return
        self.outcomes.append(outcome(case, actual, self.arithmetic))
        if self.deterministic and case.check in ("shapes", "long sums"):
            again = self._result(case)
            if again is not None and not np.array_equal(actual, again, equal_nan=True):
                places = int(np.count_nonzero(~((actual == again) | (np.isnan(actual) & np.isnan(again)))))
                self._fail("determinism", case, "not deterministic", f"{places} elements differ between equal calls")

    def _result(self, case: GemmCase) -> FloatArray | None:
        given = self.handover.arguments(case.a, case.b, case.bias, case.layout)
        before = [_flat_bytes(x) for x in given]
        self._poison(case)
        try:
            with np.errstate(all="ignore"):  # operands that are not finite
                result = self.fn(*given)
        except Exception as error:  # anything that a stranger's kernel may raise
            self._fail("call", case, f"raised {type(error).__name__}", str(error)[:200])
            return None
        if [_flat_bytes(x) for x in given] != before:
            self._fail("operands unchanged", case, "operand overwritten", "an operand holds other bytes than before")
        return self._accepted(case, result)

    def _accepted(self, case: GemmCase, result: Any) -> FloatArray | None:
        """The result as float64 if it has shape and dtype, else a failure."""
        m, n, _ = case.shape
        shape, dtype = tuple(getattr(result, "shape", ())), str(getattr(result, "dtype", type(result).__name__))
        dtype = dtype.removeprefix("torch.")
        wanted = self.arithmetic.out_dtype
        if shape != (m, n):
            self._fail("output shape and dtype", case, "wrong shape", f"got {shape}, expected {(m, n)}")
            return None
        in_float32 = wanted == "bfloat16" and dtype == "float32" and not is_tensor(result)
        if dtype != wanted and not in_float32:
            self._fail("output shape and dtype", case, "wrong dtype", f"got {dtype}, expected {wanted}")
            return None
        return as_float64(result, "result")

    def _poison(self, case: GemmCase) -> None:
        """Leaves freed memory of the result's size filled with NaN, which most allocators hand out again."""
        m, n, _ = case.shape
        for itemsize in (4, 2):
            blocks: list[Any] = [np.full(m * n * itemsize, 0xFF, np.uint8) for _ in range(POISON_BLOCKS)]
            if self.handover.as_tensor:
                import torch

                device = self.handover.device
                blocks += [torch.full((m * n * itemsize,), 0xFF, dtype=torch.uint8, device=device) for _ in blocks]
            del blocks

    def _fail(self, check: str, case: GemmCase, kind: str, detail: str) -> None:
        """One failure per kind; the first case stands for all."""
        if kind not in self._raised:
            self._raised.add(kind)
            m, n, k = case.shape
            message = f"{detail} (case {case.check}: {case.name}, M {m}, N {n}, K {k})"
            self.failures.append(Failure(check, message, kind, {"case": case.name, "m": m, "n": n, "k": k}))


def _flat_bytes(x: Any) -> bytes:
    if is_tensor(x):  # numpy lacks bfloat16, which float32 holds
        host = x.detach().cpu()
        return (host.float() if host.is_floating_point() else host).numpy().tobytes()
    return np.asarray(x).tobytes()


def _failures(outcomes: list[Outcome]) -> list[Failure]:
    """One failure per check and kind. The kind that explains most wrong cases explains all that it can."""
    wrong = [found for found in outcomes if not found.ok]
    known = [list(explanations(found)) for found in wrong]
    kinds = choose(known)
    failures: dict[tuple[str, str], Failure] = {}
    for found, possible, kind in zip(wrong, known, kinds, strict=True):
        detail = next((e.detail for e in possible if e.kind == kind), "no known fault explains it")
        key = found.case.check, kind
        if key not in failures:
            failures[key] = Failure(found.case.check, f"{_describe(found)}; {detail}", kind, _example(found))
    return list(failures.values())


def _worst(found: Outcome) -> tuple[tuple[int, ...], float]:
    """Place of the worst element, and its error in units of the bound."""
    with np.errstate(all="ignore"):
        severity = np.abs(found.actual - found.right.expected) / found.bound
    severity = np.where(found.is_wrong, np.nan_to_num(severity, nan=np.inf, posinf=np.inf), -1.0)
    at = place(int(np.argmax(severity)), severity.shape)
    return at, float(severity[at])


def _describe(found: Outcome) -> str:
    at, severity = _worst(found)
    m, n, k = found.case.shape
    return (
        f"{found.case.name} (M {m}, N {n}, K {k}): {int(found.is_wrong.sum())} of {found.is_wrong.size} elements are "
        f"wrong; worst at {at}: got {found.actual[at]:.9g}, expected {found.right.expected[at]:.9g}, "
        f"{severity:.4g} x the bound {found.bound[at]:.3g}"
    )


def _example(found: Outcome) -> dict[str, Any]:
    at, _ = _worst(found)
    m, n, k = found.case.shape
    return {"case": found.case.name, "m": m, "n": n, "k": k, "at": list(at),
            "actual": float(found.actual[at]), "expected": float(found.right.expected[at])}  # fmt: skip


def _measurements(outcomes: list[Outcome]) -> dict[str, float]:
    """The largest error as share of the bound; ω, what lies beyond the output's own rounding, as share of the
    probabilistic bound and over √n · u."""
    worst = {"error / bound": 0.0, "error / probabilistic bound": 0.0, "omega / (sqrt(n) u)": 0.0}
    for found in outcomes:
        finite = np.isfinite(found.actual) & np.isfinite(found.right.expected)
        usable = finite & (found.right.magnitude > 2.0**-100) & (found.bound > 0.0)
        if not usable.any():
            continue
        error = np.abs(found.actual[usable] - found.right.expected[usable])
        n, u = found.arithmetic.roundings(found.right.k), found.arithmetic.unit_roundoff
        out = unit_roundoff(found.arithmetic.out_dtype)
        beyond = np.maximum(error - (out if out > u else 0.0) * np.abs(found.right.expected[usable]), 0.0)
        omega = float((beyond / found.right.magnitude[usable]).max())
        now = (
            float((error / found.bound[usable]).max()),
            omega / probabilistic_bound(n, u),
            omega / (math.sqrt(n) * u),
        )
        worst = {name: max(old, new) for (name, old), new in zip(worst.items(), now, strict=True)}
    return worst
