"""A tensor with a name and a role, and which rows of a large one are looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from narrowgauge.numerics._arrays import is_tensor

Float32Array: TypeAlias = NDArray[np.float32]

SAMPLE = 1 << 18
"""Elements of a tensor that are looked at, unless a caller says otherwise."""
ROW_RUN = 128
"""Neighbouring rows that are taken together, so that tiles of up to 128 rows stay what they are."""


@dataclass(frozen=True)
class TensorInfo:
    """name: unique in its source. role: distribution, weight, activation, gradient or tensor. shape and dtype:
    of the whole tensor. sample: which part of it was read, in words; empty for all of it."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    sample: str = ""


@dataclass(frozen=True, eq=False)
class NamedTensor:
    """values: float32, of the shape of `info`, or [rows, columns] of a sample."""

    info: TensorInfo
    values: Float32Array


@dataclass(frozen=True, eq=False)
class TensorSource:
    """Iterating gives a `NamedTensor` each, in the order of `infos`, as often as one likes.

    left_out: name -> why a tensor that is there is not among them.
    """

    infos: tuple[TensorInfo, ...]
    load: Callable[[TensorInfo], NamedTensor]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.infos)

    def __iter__(self) -> Iterator[NamedTensor]:
        return map(self.load, self.infos)


def row_runs(rows: int, cols: int, limit: int | None) -> tuple[list[slice], int]:
    """(runs of rows, columns) to take of a matrix: at most `limit` elements, at least one row or `limit`
    elements of it. ValueError for a limit below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}, accepted: a number of elements >= 1, or None for all")
    if limit is None or rows * cols <= limit:
        return [slice(0, rows)], cols
    taken = min(max(limit // cols, 1), rows)
    run = min(taken, ROW_RUN)
    count = taken // run
    # Starts at multiples of the run where that spreads them as well: tiles keep their borders.
    starts = [int((index + 0.5) * rows / count - run / 2) // run * run for index in range(count)]
    return [slice(start, start + run) for start in starts], min(cols, limit)


def _matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 0 else (1, 1)


def _sample_text(runs: list[slice], cols: int, shape: Sequence[int]) -> str:
    rows, all_cols = _matrix_shape(shape)
    taken = sum(run.stop - run.start for run in runs)
    if (taken, cols) == (rows, all_cols):
        return ""
    text = f"{taken:,} of {rows:,} rows"
    return text if cols == all_cols else f"{text}, {cols:,} of {all_cols:,} columns"


def sampled(x: Any, info: TensorInfo, limit: int | None) -> NamedTensor:
    """`x` (array or torch tensor, any device and float type; a matrix may be anything that gives rows when it is
    indexed) as float32, whole rows of it above `limit` elements; a copy that shares nothing with `x`."""
    runs, cols = row_runs(*_matrix_shape(info.shape), limit)
    text = _sample_text(runs, cols, info.shape)
    if text:
        matrix = x if len(info.shape) == 2 else x.reshape(_matrix_shape(info.shape))
        parts = [_as_float32(matrix[run, :cols]) for run in runs]
        return NamedTensor(replace(info, sample=text), np.concatenate(parts))
    return NamedTensor(info, _as_float32(x))


def _as_float32(x: Any) -> Float32Array:
    if is_tensor(x):
        import torch

        copied: Float32Array = x.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()
        return copied
    with np.errstate(over="ignore"):
        return np.array(x, dtype=np.float32, order="C")
