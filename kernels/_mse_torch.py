"""The search of the scale rule `mse` over a single tile on a CPU: few of its 38 candidates are ever counted to the end.

The rule (`formats/clipping.py`) wants the ratio r of least cost, the sum over the tile of

    rint(min(((x̂ - x) / amax)², 1) · 2^bits)

Costs are added block by block, the likeliest candidate first; one whose partial sum passes a finished cost is out. In
float32 a cost is not known exactly, but between bounds: with u = 2^-24, e the differences as float32 has them and n
their number, the differences of the definition lie within

    ‖δ‖ <= u · (√n · amax + 3 ‖e‖) + 2^-148 · √n

of e, a sum of L float32 squares in any order errs by L · u of it, and each of the n roundings to integers by 1/2.
Candidates whose bounds overlap with the best are compared by the definition itself, and only where x̂ differs:
minifloats quantise most numbers alike under factors that are a power of two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import frexp, inf, sqrt
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Format, IntFormat, Scheme
from narrowgauge.formats.clipping import COARSE, FINE
from narrowgauge.kernels._ranks_torch import buckets, ranks
from narrowgauge.kernels._round_torch import grid_of, round_nearest
from narrowgauge.kernels._scales_torch import scales
from narrowgauge.kernels.tables import float32_values, search_table

BLOCK = 1 << 16
"""Elements whose errors are added at a time."""
SUMMED = 1 << 10
"""Squares that are added in float32."""
SAMPLE = 1 << 11
"""Elements that all candidates are tried on first, to see which are likely."""
SMALL_EXPONENT = 20
"""Tiles whose amax lies below 2^-20 are multiplied by a power of two."""
LARGEST = 2.0**58
"""amax of tiles whose squares float32 adds."""
_U = 2.0**-24
_SLACK = 32
"""Roundings, in units of u, of all the steps that are not sums."""

Bounds = tuple[float, float]
Rounds = Callable[[Tensor, Tensor], None]
"""(y, scratch): finite float32 numbers to the nearest values of a format, in place; the sign of zero is lost. scratch:
int32, of twice y's size."""


class Steps(NamedTuple):
    """How a tile is quantised. factors: float32 clipping points → float32 factors. rounds: of numbers in units of the
    factor. bounded: whether no value that a number is rounded to can be farther from it than amax."""

    factors: Callable[[Tensor], Tensor]
    rounds: Rounds
    bounded: bool


def steps_of(spec: Scheme, rounds: Rounds | None = None) -> Steps:
    """The steps of a scheme that is not a block format. rounds: how its elements are rounded, if not of 8 bits."""
    nearest = rounds or _nearest(spec.element, spec.flush)
    return Steps(lambda points: scales(points, spec)[1], nearest, _is_bounded(spec.element))


@lru_cache(maxsize=64)
def _is_bounded(fmt: Format) -> bool:
    return float(fmt.decode(fmt.encode(0.0))) == 0 and max(fmt.max, -fmt.min) <= fmt.amax_target


@lru_cache(maxsize=64)
def _nearest(fmt: Format, flush: bool) -> Rounds:
    grid = None if flush else grid_of(fmt)
    if type(fmt) is IntFormat:
        unit = 2.0**fmt.fraction_bits
        lowest, highest = fmt.min_code / unit, fmt.max_code / unit

        def rounds(y: Tensor, scratch: Tensor) -> None:
            y.clamp_(lowest, highest)
            y.round_() if unit == 1 else y.mul_(unit).round_().mul_(1 / unit)

    elif grid is not None:

        def rounds(y: Tensor, scratch: Tensor) -> None:
            round_nearest(y.clamp_(-grid.max, grid.max), grid, scratch[: y.numel()].view(y.shape))

    else:
        table, by_code = search_table(fmt, flush), float32_values(fmt)
        search = buckets(table.thresholds, torch.device("cpu"))
        values = torch.from_numpy(by_code[table.codes & (2**fmt.bits - 1)])

        def rounds(y: Tensor, scratch: Tensor) -> None:
            flat = y.view(-1)
            spare, rank = scratch[: 2 * flat.numel()].view(2, -1)
            torch.index_select(values, 0, ranks(flat.view(torch.int32), search, spare, rank), out=flat)

    return rounds


class Costs(Protocol):
    """Costs of the parts of a tile, by ratio, as bounds."""

    @property
    def parts(self) -> int: ...

    def sample(self, ratios: list[float]) -> list[float]:
        """Lower bounds of the costs of some of the elements, to start with what is likely."""
        ...

    def part(self, ratio: float, index: int) -> Bounds: ...

    def compare(self, ratios: list[float]) -> list[int]:
        """The exact costs of the whole tile, less a number common to all."""
        ...


class ExactCosts:
    """Costs by the definition. blocks: parts of the tile. cost: of a part under a ratio."""

    def __init__(self, blocks: Sequence[Tensor], cost: Callable[[Tensor, float], int]) -> None:
        self._blocks, self._cost = blocks, cost
        self._first: dict[float, int] = {}

    @property
    def parts(self) -> int:
        return len(self._blocks)

    def sample(self, ratios: list[float]) -> list[float]:
        return [self.part(ratio, 0)[0] for ratio in ratios]

    def part(self, ratio: float, index: int) -> Bounds:
        if index:
            cost = self._cost(self._blocks[index], ratio)
        else:
            cost = self._first[ratio] = self._first.get(ratio) or self._cost(self._blocks[0], ratio)
        return cost, cost

    def compare(self, ratios: list[float]) -> list[int]:
        return [sum(self._cost(block, ratio) for block in self._blocks) for ratio in ratios]


class Float32Costs:
    """Costs by float32 arithmetic. x: the tile, float32, float16 or bfloat16, finite; amax: at most LARGEST, not 0."""

    def __init__(self, x: Tensor, amax: Tensor, steps: Steps, bits: int) -> None:
        self._amax, self._steps, self._power = amax.view(()), steps, 2.0**bits
        # Squares of errors of small numbers would underflow.
        self._shift = 2.0 ** max(0, -frexp(float(amax))[1] - SMALL_EXPONENT)
        flat = x.reshape(-1) if x.is_contiguous() else x.t().reshape(-1)
        self._blocks = (flat if self._shift == 1 else flat.float() * self._shift).split(BLOCK)
        self._largest = float(amax) * self._shift
        self._sample = flat[:: -(-flat.numel() // SAMPLE)].float() * self._shift
        self._buffers = amax.new_empty((2, min(BLOCK, x.numel())))
        self._scratch = torch.empty(2 * max(self._buffers.shape[1], len(COARSE) * SAMPLE), dtype=torch.int32)
        self._factors: dict[float, tuple[float, float]] = {}

    @property
    def parts(self) -> int:
        return len(self._blocks)

    def sample(self, ratios: list[float]) -> list[float]:
        factors = self._steps.factors(self._amax * torch.tensor(ratios, dtype=torch.float32))
        inverses = factors.reciprocal()
        for ratio, factor, inverse in zip(ratios, factors.tolist(), inverses.tolist(), strict=True):
            self._factors[ratio] = factor * self._shift, inverse / self._shift
        y = torch.empty(len(ratios), self._sample.numel())
        for row, ratio in zip(y, ratios, strict=True):
            torch.mul(self._sample, self._factors[ratio][1], out=row)
        self._steps.rounds(y, self._scratch)
        for row, ratio in zip(y, ratios, strict=True):
            torch.sub(self._sample, row, alpha=self._factors[ratio][0], out=row)
        return [self._bounds(row)[0] for row in self._clipped(y)]

    def part(self, ratio: float, index: int) -> Bounds:
        block = self._blocks[index]
        y = self._rounded(block, ratio, self._buffers[0])
        return self._bounds(self._clipped(torch.sub(block, y, alpha=self._factors[ratio][0], out=y)))

    def compare(self, ratios: list[float]) -> list[int]:
        costs = [0] * len(ratios)
        one = self._factors[ratios[0]][0]
        for block in self._blocks:
            first = self._rounded(block, ratios[0], self._buffers[0])
            for place, ratio in enumerate(ratios[1:], start=1):
                factor = self._factors[ratio][0]
                other, elements = self._rounded(block, ratio, self._buffers[1]), block
                mine = first
                if frexp(factor / one)[0] == 0.5:
                    differ = torch.from_numpy(np.flatnonzero((other * (factor / one)).numpy() != first.numpy()))
                    mine, other, elements = first[differ], other[differ], block[differ]
                costs[place] += self._cost(other, factor, elements) - self._cost(mine, one, elements)
        return costs

    def _rounded(self, block: Tensor, ratio: float, buffer: Tensor) -> Tensor:
        y, inverse = buffer[: block.numel()], self._factors[ratio][1]
        if block.dtype == torch.float32:
            torch.mul(block, inverse, out=y)
        else:
            y.copy_(block).mul_(inverse)
        self._steps.rounds(y, self._scratch)
        return y

    def _cost(self, values: Tensor, factor: float, x: Tensor) -> int:
        relative = values.double().mul_(factor).sub_(x).div_(self._largest)
        return rounded_squares(relative, self._power)

    def _clipped(self, errors: Tensor) -> Tensor:
        return errors if self._steps.bounded else errors.clamp_(-self._largest, self._largest)

    def _bounds(self, errors: Tensor) -> Bounds:
        flat, count = errors.numpy(), errors.numel()
        whole = count // SUMMED * SUMMED
        rows, rest = flat[:whole].reshape(-1, SUMMED), flat[whole:]
        total = float(np.vecdot(rows, rows).sum(dtype=np.float64) + np.vecdot(rest, rest))
        share, underflow = (SUMMED + _SLACK) * _U, count * 2.0**-149
        low, high = sqrt(max(total - underflow, 0.0) / (1 + share)), sqrt((total + underflow) / (1 - share))
        apart = _U * (sqrt(count) * self._largest + 3 * high) + sqrt(count) * 2.0**-148
        unit, rounding = self._power / self._largest**2, count / 2
        return max(low - apart, 0.0) ** 2 * unit - rounding, (high + apart) ** 2 * unit + rounding


def rounded_squares(relative: Tensor, power: float) -> int:
    """The cost of float64 errors in units of amax, which are overwritten; power: 2^bits."""
    return int(relative.square_().clamp_(max=1.0).mul_(power).round_().to(torch.int64).sum())


def least_ratio(costs: Costs) -> float:
    """The ratio of least cost."""
    start, bounds = _least(costs, list(COARSE), {})
    fine = {min(float(np.float32(start) * np.float32(factor)), 1.0) for factor in FINE} - {start}
    return _least(costs, sorted(fine), {start: bounds})[0]


def _least(costs: Costs, ratios: list[float], finished: dict[float, Bounds]) -> tuple[float, Bounds]:
    """The ratio of least cost among `ratios` and those whose costs are `finished`, the larger of equals; its cost."""
    limit = min((high for _, high in finished.values()), default=inf)
    for least, ratio in sorted(zip(costs.sample(ratios), ratios, strict=True)):
        if least > limit:
            break
        bounds = _counted(costs, ratio, limit)
        if bounds is not None:
            finished[ratio] = bounds
            limit = min(limit, bounds[1])
    left = [ratio for ratio, (low, _) in finished.items() if low <= limit]
    exact = costs.compare(left) if len(left) > 1 else [0]
    _, ratio = min(zip(exact, (-ratio for ratio in left), strict=True))
    return -ratio, finished[-ratio]


def _counted(costs: Costs, ratio: float, limit: float) -> Bounds | None:
    """The cost of a ratio, None if it is more than `limit`."""
    low: float = 0
    high: float = 0
    for index in range(costs.parts):
        least, most = costs.part(ratio, index)
        low, high = low + least, high + most
        if low > limit:
            return None
    return low, high
