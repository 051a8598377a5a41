"""Sums of products in accumulators narrower than float32, step by step: the arithmetic of `nn/accumulate.py`.

    A minifloat, every step      s ← round(s + a_k·b_k),      a_k·b_k and the sum before rounding in float32
    Hopper's FP8 tensor cores    of 32 products and s, all cut to multiples of 2^(E - 13), E the largest exponent among
                                 them, then added exactly (DeepSeek-V3, arXiv 2412.19437, §3.3.2: 14 bits survive)
    int32                        exact, modulo 2^32

Operands are [C, k, M] and [C, k, N]: C chunks of k products, whose sums do not know each other; the last is filled up
with zeros, which change no sum. float32 is wide enough for a rounding of its sum to be a rounding of the true sum where
products and accumulator have p significant bits with 2p + 2 <= 24 (Figueroa 1995), as those of 8-bit floats in float16,
bfloat16 or DLFloat16 have; wider operands may round twice. On a CPU a block of sums stays in the caches through all
steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from narrowgauge.formats import FloatFormat
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels._draws_torch import draws
from narrowgauge.kernels._round_torch import NATIVE, grid_of, round_nearest, round_stochastic
from narrowgauge.kernels.random_words import key_of, mix

BLOCK = 1 << 16
"""Sums of one block on a CPU: with its buffers they stay in a core's cache."""
HOPPER_GROUP = 32
"""Products that Hopper's tensor cores align at a time."""
HOPPER_BITS = 14
"""Bits of the largest of them that survive."""
HOPPER_SMALLEST = 2.0**-125
"""What they are cut to multiples of, at least."""
EXPONENT = 0x7F800000
DRAW_BITS = 16
Stream = tuple[int, int]
"""(seed, offset) of stochastic rounding."""


class Rounder:
    """Rounds float32 sums in place to a minifloat, with buffers made once for the shape of `sums`. What exceeds the
    largest value becomes an infinity, or NaN in formats without one; may_overflow=False: nothing will."""

    def __init__(self, fmt: FloatFormat, sums: Tensor, *, may_overflow: bool) -> None:
        self.grid = None if is_float32(fmt) else grid_of(fmt)
        if self.grid is None and not is_float32(fmt):
            raise ValueError(
                f"format: {fmt.name} is no accumulator, accepted: fp32 and signed minifloats whose exponents lie "
                "within float32's"
            )
        self.native = NATIVE.get(fmt.name)
        self.narrow = torch.empty_like(sums, dtype=self.native) if self.native else None
        self.scratch = torch.empty_like(sums, dtype=torch.int32) if self.grid and not self.native else None
        self.beyond = torch.inf if fmt.has_inf else torch.nan
        self.limit = 2.0 ** (fmt.emax + 1) if fmt.emax < 127 else torch.inf
        self.may_overflow = may_overflow

    def __call__(self, sums: Tensor, random: Tensor | None = None) -> None:
        """random: RANDOM_BITS bits an element (int32), or None to round to nearest, ties to even."""
        if self.grid is None:
            return
        if random is not None:
            self._stochastic(sums, random)
        elif self.narrow is not None:
            sums.copy_(self.narrow.copy_(sums))
        elif self.scratch is not None:
            if self.may_overflow:
                sums.clamp_(-self.limit, self.limit)
            round_nearest(sums, self.grid, self.scratch)
            if self.may_overflow:
                self._overflow(sums)

    def _stochastic(self, sums: Tensor, random: Tensor) -> None:
        assert self.grid is not None
        spoiled = ~torch.isfinite(sums)
        kept = sums[spoiled]
        sums.clamp_(-self.limit, self.limit)
        round_stochastic(sums, self.grid, random)
        sums[spoiled] = kept
        self._overflow(sums)

    def _overflow(self, sums: Tensor) -> None:
        assert self.grid is not None
        sums.masked_fill_(sums > self.grid.max, self.beyond)
        sums.masked_fill_(sums < -self.grid.max, -self.beyond)


def is_float32(fmt: FloatFormat) -> bool:
    """Whether float32 sums need no rounding to be of this format."""
    return fmt.name == "fp32"


def step_bits(count: int, place: int, seed: int, offset: int, step: int, device: torch.device) -> Tensor:
    """Random bits (int32 [count], multiples of 2^8 below 2^24) of sums `place` (even) and following in one step: the 16
    bits that `kernels/random_words.py` has for an element, under the key of (seed, offset, step)."""
    key = key_of(mix(seed >> 32) ^ seed, mix(offset >> 32) ^ offset, step)
    halves = (draws(count, key, place, device) * (1 << DRAW_BITS)).to(torch.int32)
    return halves << (RANDOM_BITS - DRAW_BITS)


def _blocks(a: Tensor, n: int) -> list[tuple[slice, slice]]:
    """(chunks, rows) of the blocks of a [C, k, M]: on a CPU so many that their sums fit BLOCK, an even number of rows
    each."""
    chunks, _, rows = a.shape
    if a.device.type != "cpu" or chunks * rows * n <= BLOCK:
        return [(slice(0, chunks), slice(0, rows))]
    tall = min(rows, max(2, BLOCK // n // 2 * 2))
    deep = max(1, BLOCK // (tall * n))
    return [(slice(c, c + deep), slice(r, r + tall)) for c in range(0, chunks, deep) for r in range(0, rows, tall)]


def chunk_sums(a: Tensor, b: Tensor, block_sums: Callable[[Tensor, Tensor, int, int], Tensor]) -> Tensor:
    """Sums [C, M, N] of the chunks of a [C, k, M] and b [C, k, N], block by block by `block_sums(a, b, first chunk,
    first row)`."""
    out = a.new_empty((a.shape[0], a.shape[2], b.shape[2]))
    for chunks, rows in _blocks(a, max(b.shape[2], 1)):
        out[chunks, rows] = block_sums(a[chunks, :, rows], b[chunks], chunks.start, rows.start)
    return out


def _random(sums: Tensor, steps: range, place: int, stream: Stream | None) -> Tensor | None:
    """Random bits of sums [C, M, N], the chunks in these steps; None without a stream."""
    if stream is None:
        return None
    parts = [step_bits(sums[0].numel(), place, *stream, step, sums.device) for step in steps]
    return torch.stack(parts).view(sums.shape)


def stepwise(
    a: Tensor, b: Tensor, fmt: FloatFormat, *, may_overflow: bool, stream: Stream | None = None, place: int = 0
) -> Tensor:
    """Sums [C, M, N], rounded to `fmt` after each product. stream: of stochastic rounding, in which product k of chunk
    c is step c·(products of a chunk) + k; place: of the first sum of a chunk among its draws, even."""
    depth, n = a.shape[1], b.shape[2]

    def block(a: Tensor, b: Tensor, chunk: int, row: int) -> Tensor:
        sums = a.new_zeros((a.shape[0], a.shape[2], n))
        products = torch.empty_like(sums)
        rounds = Rounder(fmt, sums, may_overflow=may_overflow)
        for k in range(depth):
            torch.mul(a[:, k, :, None], b[:, k, None, :], out=products)
            sums.add_(products)
            steps = range(chunk * depth + k, (chunk + len(a)) * depth, depth)
            rounds(sums, _random(sums, steps, place + row * n, stream))
        return sums

    return chunk_sums(a, b, block)


def whole(
    a: Tensor, b: Tensor, fmt: FloatFormat, *, may_overflow: bool, stream: Stream | None = None, place: int = 0
) -> Tensor:
    """Sums [C, M, N] made in float32 and rounded once. stream, place: as for `stepwise`; chunk c is step c."""
    sums = torch.matmul(a.transpose(1, 2), b)
    Rounder(fmt, sums, may_overflow=may_overflow)(sums, _random(sums, range(len(sums)), place, stream))
    return sums


def added(
    sums: Tensor,
    fmt: FloatFormat,
    *,
    may_overflow: bool,
    stream: Stream | None = None,
    place: int = 0,
    first_step: int = 0,
) -> Tensor:
    """Σ of `sums` [C, M, N] along C, rounded to `fmt` at each step, the first one included. stream, place: as for
    `stepwise`, the steps counted from `first_step`."""
    total = sums.new_zeros(sums.shape[1:])
    rounds = Rounder(fmt, total, may_overflow=may_overflow)
    for step, part in enumerate(sums, first_step):
        random = _random(part.unsqueeze(0), range(step, step + 1), place, stream)
        rounds(total.add_(part), None if random is None else random[0])
    return total


def hopper(a: Tensor, b: Tensor) -> Tensor:
    """Sums [C, M, N] as Hopper's FP8 tensor cores make them, of finite operands whose products are finite."""
    depth, n = a.shape[1], b.shape[2]
    lowest, fraction = 127 - 126 + HOPPER_BITS, HOPPER_BITS - 1

    def block(a: Tensor, b: Tensor, chunk: int, row: int) -> Tensor:
        sums = a.new_zeros((a.shape[0], a.shape[2], n))
        products, largest = torch.empty_like(sums), torch.empty_like(sums)
        bits, power = largest.view(torch.int32), torch.empty_like(sums, dtype=torch.int32)
        for first in range(0, depth, HOPPER_GROUP):
            group = range(first, min(first + HOPPER_GROUP, depth))
            torch.abs(sums, out=largest)
            for k in group:
                torch.mul(a[:, k, :, None], b[:, k, None, :], out=products)
                torch.maximum(largest, products.abs_(), out=largest)
            bits.bitwise_and_(EXPONENT).clamp_(min=lowest << 23)
            # 2^(13 - E), and 2^(E - 13) in the place of the largest.
            torch.bitwise_right_shift(bits, 23, out=power).neg_().add_(254 + fraction).bitwise_left_shift_(23)
            inverse = power.view(torch.float32)
            bits.sub_(fraction << 23)
            sums.mul_(inverse).trunc_()
            for k in group:
                torch.mul(a[:, k, :, None], b[:, k, None, :], out=products)
                sums.add_(products.mul_(inverse).trunc_())
            sums.mul_(largest)
        return sums

    return chunk_sums(a, b, block)


def wrapped_integers(a: Tensor, b: Tensor) -> Tensor:
    """Sums [C, M, N] of integers in int32, modulo 2^32, as float64; exact while none passes 2^53."""
    exact = torch.matmul(a.double().transpose(1, 2), b.double())
    return torch.remainder(exact + 2.0**31, 2.0**32) - 2.0**31
