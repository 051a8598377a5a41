"""hadamardN: y = (x · D) H / √N on blocks of N consecutive columns, as `narrowgauge.formats.hadamard` defines it.

D are the signs (`weight`: [N], the same for every block, or [K]; ±1); the last block is filled up with zeros. H in
butterflies at distances 1, 2, 4 …, in this order, then one product with 1/√N: the bits are those of `+rhtN` operands.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats.hadamard import padded, rotate
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.prologues.prologue import Float32Array, Float64Array, Prologue

SIZES = (16, 32, 64, 128)


def _signed(x: Float32Array, weight: Float32Array | None) -> Float32Array:
    if weight is None:
        return x
    columns = x.shape[-1]
    return x * (weight if len(weight) == columns else np.tile(weight, -(-columns // len(weight)))[:columns])


def _transform(size: int, x: Tensor, weight: Tensor | None, columns: int, scratch: Tensor) -> None:
    """In place; x [rows, whole blocks], zero beyond `columns`."""
    if weight is not None:
        if weight.shape[0] == columns:
            x[:, :columns].mul_(weight)
        else:
            x.view(-1, size).mul_(weight)
    blocks = x.view(-1, size)
    # Elements of one place in their blocks next to each other: every pass adds long vectors.
    values, other = (memory[: x.numel()].view(size, -1) for memory in scratch[:2])
    values.copy_(blocks.t())
    distance = 1
    while distance < size:
        (first, second), (total, rest) = (
            memory.view(-1, 2, distance, blocks.shape[0]).unbind(1) for memory in (values, other)
        )
        torch.add(first, second, out=total)
        torch.sub(first, second, out=rest)
        values, other, distance = other, values, 2 * distance
    blocks.copy_(values.mul_(1.0 / sqrt(size)).t())


@jit
def butterfly(x, DISTANCE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums and differences of the elements of x [ROWS, COLUMNS] at one distance."""
    pairs = tl.reshape(x, (ROWS * COLUMNS // (2 * DISTANCE), 2, DISTANCE))
    first, second = tl.split(tl.permute(pairs, (0, 2, 1)))
    joined = tl.permute(tl.join(first + second, first - second), (0, 2, 1))
    return tl.reshape(joined, (ROWS, COLUMNS))


@jit
def butterflies(x, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Blocks of SIZE, at most 128, along the last axis of x [ROWS, COLUMNS], transformed."""
    for step in tl.static_range(7):
        if (1 << step) < SIZE:
            x = butterfly(x, 1 << step, ROWS, COLUMNS)
    return x * (1.0 / SIZE**0.5)


def _hadamard(size: int) -> Prologue:
    def define(x: Float32Array, other: Float32Array | None, weight: Float32Array | None, eps: float) -> Float32Array:
        return rotate(_signed(x, weight), size)

    def exact(x: Float64Array, other: Float64Array | None, weight: Float64Array | None, eps: float) -> Float64Array:
        matrix = np.ones((1, 1))
        while len(matrix) < size:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        filled = padded(_signed(x, weight), size)  # type: ignore[arg-type]
        blocks = filled.reshape(-1, size).astype(np.float64)
        return np.asarray((blocks @ matrix / sqrt(size)).reshape(filled.shape))

    def transform(x: Tensor, weight: Tensor | None, eps: float, columns: int, scratch: Tensor) -> None:
        _transform(size, x, weight, columns, scratch)

    return Prologue(
        f"hadamard{size}", f"(x · signs) H{size} / √{size}", "hadamard", define, exact, block=size, weighted="signs",
        transform=transform,
    )  # fmt: skip


HADAMARDS = tuple(_hadamard(size) for size in SIZES)
