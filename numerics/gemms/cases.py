"""Operands that GEMMs get wrong: ragged, cancelling, all positive, one-hot, long, tiny, strided, not finite.

Each check is one function of `_CASES`; its name is what a report prints. Magnitudes are such that float16 can hold
every product and sum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import BlockFormat, Quantized, Scheme
from narrowgauge.numerics.gemms.operands import GemmOperand, Spec, as_plain, coded_operand, make_operand

Float32Array = NDArray[np.float32]

SHAPES = ((1, 1, 1), (1, 131, 127), (67, 1, 33), (5, 7, 3), (48, 48, 48), (37, 29, 160), (133, 131, 300))
"""M, N, K: one, primes, squares, and what no block length divides."""
LONG_K = 16387


@dataclass(frozen=True)
class GemmCase:
    """One call. check: what it belongs to. exact: the result is known to the last bit, whatever the order of the sums;
    no sum has more than one product that is not zero."""

    check: str
    name: str
    a: GemmOperand
    b: GemmOperand
    bias: Float32Array | None = None
    layout: str = "contiguous"
    exact: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """M, N, K."""
        return self.a.elements.shape[0], self.b.elements.shape[0], self.a.elements.shape[1]


@dataclass(frozen=True)
class CasePlan:
    """What cases are made of. multiples: M, N and K are rounded up to them; long_k: K of the longest sums."""

    a: Spec
    b: Spec
    shapes: tuple[tuple[int, int, int], ...] = SHAPES
    multiples: tuple[int, int, int] = (1, 1, 1)
    long_k: int = LONG_K
    coded: bool = True
    bias: bool = False
    seed: int = 0

    def fitted(self, m: int, n: int, k: int) -> tuple[int, int, int]:
        """M, N, K rounded up to the multiples."""
        fm, fn, fk = (-(-size // unit) * unit for size, unit in zip((m, n, k), self.multiples, strict=True))
        return fm, fn, fk

    def case(self, check: str, name: str, a: NDArray[np.floating], b: NDArray[np.floating]) -> GemmCase:
        """A case of two matrices [M, K] and [N, K], quantised."""
        left, right = make_operand(a, self.a, self.seed), make_operand(b, self.b, self.seed)
        return self.finished(GemmCase(check, name, left, right))

    def finished(self, case: GemmCase) -> GemmCase:
        """With the bias, and with plain operands where codes are not wanted."""
        bias = None
        if self.bias:
            rng = np.random.default_rng(self.seed + 1)
            bias = (0.0 if case.exact else 1.0) * rng.standard_normal(case.shape[1]).astype(np.float32)
        if not self.coded:
            case = replace(case, a=as_plain(case.a), b=as_plain(case.b))
        return replace(case, bias=bias)


def gemm_cases(plan: CasePlan, skip: Collection[str] = ()) -> Iterator[GemmCase]:
    """Every case of the plan but those of checks in `skip`, in the order of `_CASES`; equal plans give equal cases."""
    for index, (check, make) in enumerate(_CASES.items()):
        if check not in skip:
            yield from make(plan, check, np.random.default_rng([plan.seed, index]))


def _normal(rng: np.random.Generator, *shape: int) -> Float32Array:
    return rng.standard_normal(shape).astype(np.float32)


def _shapes(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    for shape in plan.shapes:
        m, n, k = plan.fitted(*shape)
        yield plan.case(check, f"{m}x{n}x{k}", _normal(rng, m, k), _normal(rng, n, k))


def _one_hot(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    """I·Bᵀ and A·I: every product but one is zero."""
    widths = [spec.tile[1] or 1 for spec in (plan.a, plan.b) if isinstance(spec, Scheme)]
    k = min(1024, max(160, max(widths, default=1) + 32))
    rows, _, k = plan.fitted(7, 7, k)
    m, n, _ = plan.fitted(k, k, k)
    _, columns, _ = plan.fitted(rows, rows, k)
    b = any_operand(plan.b, columns, k, rng)
    yield plan.finished(GemmCase(check, "a is the identity", unit_operand(plan.a, m, k), b, exact=True))
    a = any_operand(plan.a, rows, k, rng)
    yield plan.finished(GemmCase(check, "b is the identity", a, unit_operand(plan.b, n, k), exact=True))


def unit_operand(spec: Spec, rows: int, k: int) -> GemmOperand:
    """Ones on the diagonal, every scale 1 (the value nearest to one, where the format has no one)."""
    eye = np.eye(rows, k, dtype=np.float32)
    if isinstance(spec, str):
        return make_operand(eye, spec)
    codes = spec.element.encode(eye)
    return coded_operand(spec, _with_scales(spec, codes, np.zeros(spec.scale_shape((rows, k)), dtype=np.int64)))


def any_operand(spec: Spec, rows: int, k: int, rng: np.random.Generator) -> GemmOperand:
    """Codes drawn evenly from those between 2^-9 and 2^9 (and zero), scales drawn from 2^-2 to 2^2."""
    if isinstance(spec, str):
        return make_operand(_normal(rng, rows, k), spec)
    element = spec.element
    every = element.all_codes()
    size = np.abs(element.decode(every))
    usable = every[np.isfinite(size) & ((size == 0) | ((size >= 2.0**-9) & (size <= 2.0**9)))]
    codes = rng.choice(usable, (rows, k)).astype(every.dtype)
    return coded_operand(spec, _with_scales(spec, codes, rng.integers(-2, 3, spec.scale_shape((rows, k)))))


def _with_scales(spec: Scheme, codes: NDArray[np.integer], exponents: NDArray[np.integer]) -> Quantized:
    """Codes under the scales 2^exponents."""
    scale = np.ldexp(1.0, exponents)
    fmt = spec.format
    stored: NDArray[Any] = scale.astype(np.float32)
    if isinstance(fmt, BlockFormat):
        stored = fmt.scale_format.encode(scale).astype(fmt.scale_dtype)
    return Quantized(codes, stored, np.ones((), np.float32), spec)


def _cancelling(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    """Two halves of K whose products cancel, and a small rest."""
    m, n, k = plan.fitted(16, 12, 256)
    half = k // 2
    a, b = _normal(rng, m, half), _normal(rng, n, half)
    rest = k - 2 * half
    a = np.concatenate([a, a, _normal(rng, m, rest)], axis=1)
    b = np.concatenate([b, -b, _normal(rng, n, rest)], axis=1)
    yield plan.case(check, "two halves", a, b + 1e-3 * _normal(rng, n, k))


def _outliers(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    m, n, k = plan.fitted(19, 17, 200)
    a, b = _normal(rng, m, k), _normal(rng, n, k)
    a[:, k // 3] *= 60.0
    b[0] *= 60.0
    a[-1, -1] = 100.0
    yield plan.case(check, "an outlier column, row and element", a, b)


def _subnormal(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    """Elements down to 2^-20 of the largest one, hence many subnormal codes; and operands near 1e-19, whose products
    are subnormal in float32."""
    m, n, k = plan.fitted(15, 13, 144)
    small = (np.ldexp(_normal(rng, rows, k), -rng.integers(0, 21, (rows, k))) for rows in (m, n))
    yield plan.case(check, "small elements", *small)
    yield plan.case(check, "operands near 1e-19", 1e-19 * _normal(rng, m, k), 1e-19 * _normal(rng, n, k))


def _positive(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    m, n, k = plan.fitted(4, 3, 4096)
    yield plan.case(check, "uniform", rng.random((m, k), np.float32), rng.random((n, k), np.float32))
    _, _, k = plan.fitted(4, 3, plan.long_k)
    yield plan.case(check, "ones", np.ones((m, k), np.float32), np.ones((n, k), np.float32))


def _long(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    m, n, k = plan.fitted(3, 2, plan.long_k)
    yield plan.case(check, f"K = {k}", _normal(rng, m, k), _normal(rng, n, k))


def _strided(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    m, n, k = plan.fitted(21, 18, 150)
    case = plan.case(check, "", _normal(rng, m, k), _normal(rng, n, k))
    yield replace(case, name="column-major", layout="turned")
    yield replace(case, name="every second element of a larger matrix", layout="strided")


def _zeros(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    m, n, k = plan.fitted(6, 5, 64)
    yield plan.case(check, "a is zero", np.zeros((m, k), np.float32), _normal(rng, n, k))
    yield plan.case(check, "both are zero", np.zeros((m, k), np.float32), np.zeros((n, k), np.float32))


def _empty(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    """An empty sum is 0 (or the bias); without rows or columns there is nothing to compute, and no error."""
    for shape in ((0, 3, 16), (3, 0, 16), (5, 7, 0)):
        m, n, k = plan.fitted(*shape)
        yield plan.case(check, f"{m}x{n}x{k}", _normal(rng, m, k), _normal(rng, n, k))


def _not_finite(plan: CasePlan, check: str, rng: np.random.Generator) -> Iterator[GemmCase]:
    """One NaN scale, NaN code or NaN or infinite value in one operand: it reaches its own rows or columns only."""
    m, n, k = plan.fitted(40, 36, 160)
    case = plan.case(check, "", _normal(rng, m, k), _normal(rng, n, k))
    for side in ("a", "b"):
        for what, broken in _broken(case.a if side == "a" else case.b):
            yield replace(case, name=f"{what} in {side}", **{side: broken})  # type: ignore[arg-type]


def _broken(x: GemmOperand) -> Iterator[tuple[str, GemmOperand]]:
    rows, cols = x.elements.shape
    at = rows // 2, cols // 2
    if not isinstance(x.spec, Scheme) or x.codes is None or x.scale is None:
        for name, special in (("NaN", np.nan), ("infinity", np.inf)):
            elements = x.elements.copy()
            elements[at] = special
            yield name, replace(x, elements=elements)
        return
    one = np.ones((), np.float32) if x.outer is None else x.outer
    scale = x.scale.copy()
    middle = tuple(size // 2 for size in scale.shape)
    is_block = isinstance(x.spec.format, BlockFormat)
    scale[middle] = x.spec.format.scale_format.encode(np.nan) if is_block else np.nan  # type: ignore[union-attr]
    yield "NaN scale", coded_operand(x.spec, Quantized(x.codes, scale, one, x.spec))
    if x.spec.element.nan_code is not None:
        codes = x.codes.copy()
        codes[at] = x.spec.element.nan_code
        yield "NaN code", coded_operand(x.spec, Quantized(codes, x.scale, one, x.spec))


_CASES: dict[str, Callable[[CasePlan, str, np.random.Generator], Iterator[GemmCase]]] = {
    "shapes": _shapes,
    "one-hot": _one_hot,
    "cancellation": _cancelling,
    "outliers": _outliers,
    "subnormals": _subnormal,
    "positive sums": _positive,
    "long sums": _long,
    "strided operands": _strided,
    "zeros": _zeros,
    "empty": _empty,
    "not finite": _not_finite,
}
CASE_CHECKS = tuple(_CASES)
"""The checks that cases belong to."""
