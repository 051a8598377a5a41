"""Whether a product is right, on the very shape that is timed: against the float64 product of its own operands.

With σ[m, n] = ‖a_m‖·‖b_n‖ / √K, the size that an element has for independent operands of mean zero, a result passes if

    |y - C|                        <= 8·r·σ         for every element,
    rms(y - C) / rms(σ)            <= r·(1 + 4/√n)  over every row and every column (n: elements in it),

    r = u_out + (K + 8)·u + s·u_partial + 1.25·q

u is the roundoff of the accumulator (2^-23 for a float32 that truncates), s·u_partial that of shorter partial sums,
u_out of the output's dtype, q the error of a quantisation that the function does itself. r is linear in K where the
error of random operands grows as √K (Higham, Mary, SIAM J. Sci. Comput. 41 (2019) A2815): a right result is far below
it. The first condition finds single elements, the second a part of K that was left out. Sums of integers are exact.

The bound of an operator that holds for all operands is the conformance check's; it is wider than this one on long K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from narrowgauge.bench.gemm_inputs import Operands
from narrowgauge.bench.poison import WrongResult

LARGEST = 8.0
"""Times σ: what no element of 10^9 normal ones exceeds."""
SLACK = 1.25
EXTRA_ROUNDINGS = 8
SLAB = 1 << 25
"""Elements compared at a time."""
HOPPER_PARTIAL = 2.0**-13
HOPPER_STEP = 32
"""Products that a tensor core of Hopper adds in one step, in 14 bits (DeepSeek-V3, arXiv:2412.19437, §3.3.2)."""


@dataclass(frozen=True)
class Rounding:
    """What a product may err by. accumulator: its unit roundoff. partial: s·u_partial. quantization: q. narrow: u of an
    operand or a scale that the function rounds beforehand. exact: nothing may be lost."""

    accumulator: float = 2.0**-23
    partial: float = 0.0
    quantization: float = 0.0
    narrow: float = 0.0
    exact: bool = False

    def limit(self, k: int, dtype: torch.dtype) -> float:
        """r for K = k and a result of this dtype."""
        if self.exact:
            return 0.0
        out = 0.0 if dtype == torch.int32 else torch.finfo(dtype).eps / 2
        sums = (k + EXTRA_ROUNDINGS) * self.accumulator
        return out + sums + self.partial + self.narrow + SLACK * self.quantization


def hopper_partial(k: int, promote_every: int | None) -> float:
    """s·u_partial of Hopper's float8 products, whose sums go to float32 after `promote_every` terms, None: never."""
    terms = k if promote_every is None else min(k, promote_every)
    return max(1, terms // HOPPER_STEP) * HOPPER_PARTIAL


def check_product(y: Tensor, operands: Operands, k: int, rounding: Rounding) -> float:
    """rms(y - C) / rms(σ) of a result [M, N] that passes; WrongResult, with what is wrong where, if it does not."""
    limit = rounding.limit(k, y.dtype)
    columns, total, sizes = torch.zeros(y.shape[1], dtype=torch.float64, device=y.device), 0.0, 0.0
    product = operands.product
    a, b = operands.norms
    step = max(1, SLAB // y.shape[1])
    for start in range(0, y.shape[0], step):
        part = slice(start, start + step)
        expected = product[part]
        error = (y[part].double() - expected).abs()
        scale = a[part, None] * b[None] / max(k, 1) ** 0.5
        _check_elements(y[part], expected, error, LARGEST * limit * scale, start)
        squares, weights = error.square(), scale.square()
        _check_lines(squares.sum(1), weights.sum(1), y.shape[1], limit, "row", start)
        columns += squares.sum(0)
        total, sizes = total + float(squares.sum()), sizes + float(weights.sum())
    _check_lines(columns, b.square() * (a.square().sum() / max(k, 1)), y.shape[0], limit, "column", 0)
    return float((total / sizes) ** 0.5) if sizes else 0.0


def relative_error(actual: Operands, expected: Operands) -> float:
    """rms of the difference of two products over rms of the second: what a quantisation costs."""
    size = float(expected.product.square().sum())
    return float((actual.product - expected.product).square().sum() / size) ** 0.5 if size else 0.0


def _check_elements(y: Tensor, expected: Tensor, error: Tensor, bound: Tensor, start: int) -> None:
    wrong = ~(error <= bound)  # so that a NaN is wrong
    if not bool(wrong.any()):
        return
    count = int(wrong.sum())
    severity = torch.where(wrong, torch.nan_to_num(error / bound, nan=float("inf")), -1.0)
    row, column = divmod(int(severity.argmax()), y.shape[1])
    raise WrongResult(
        f"{count} of {y.numel()} elements are out of bound; at ({start + row}, {column}): got "
        f"{float(y[row, column]):.6g}, expected {float(expected[row, column]):.6g} ± {float(bound[row, column]):.3g}"
    )


def _check_lines(squares: Tensor, weights: Tensor, count: int, limit: float, kind: str, start: int) -> None:
    """rms of every row or column."""
    ratio = (squares / weights.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
    allowed = limit * (1.0 + 4.0 / count**0.5)
    worst = int(ratio.argmax())
    if float(ratio[worst]) > allowed:
        raise WrongResult(
            f"{kind} {start + worst} errs by {float(ratio[worst]):.3g} of its size, root mean square; allowed is "
            f"{allowed:.3g}"
        )
