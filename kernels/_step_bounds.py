"""How far results of optimizer_step may lie from the reference's: by what rounding errors can change, and no further.

Inputs are moved by the errors of float32 arithmetic (those of logarithms where a codec takes some) in many directions;
the outputs of the moved inputs, stored under the same draws and read back, say what an implementation may give: the
same code, or its neighbour where the value lies on the border between two. Read-back values are compared, not codes:
neighbours in value need not be neighbours in code, and a group's numbers have borders, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels._masters_reference import join_weight
from narrowgauge.kernels._moments_reference import Array
from narrowgauge.kernels._step_reference import (
    Call,
    Wide,
    Written,
    gradient,
    numpy_of,
    read,
    read_moments,
    step,
    stored,
    write,
)
from narrowgauge.kernels.moments import MomentCodec

FLOAT_ERROR = 2.0**-21
"""A few roundings in a row, relative to their largest operand."""
LOGARITHM_ERROR = 2.0**-15
"""Relative error of a moment that goes through a logarithm: GPUs take those to 2^-22, of exponents up to 2^7."""

SCATTERED = 4
"""Further directions, in which every element moves for itself."""
SLACK = 1.02
"""A neighbour reads back a little differently where the numbers of its group have moved, too."""


def _error_of(codec: MomentCodec | None) -> float:
    return LOGARITHM_ERROR if codec is not None and codec.kind in ("log", "expanded") else FLOAT_ERROR


def _state_errors(call: Call) -> tuple[float, float]:
    """Relative errors of m and v as they are read; whitened moments have those of both."""
    first, second = call.codecs
    v = _error_of(second)
    return max(_error_of(first), v) if first is not None and first.whitened else _error_of(first), v


def _moved(x: Array | None, error: float | Array, sign: int) -> Array | None:
    return None if x is None else x + sign * error * np.abs(x)


def _largest(differences: list[Array]) -> Array:
    return np.nan_to_num(np.max(differences, axis=0), nan=0.0, posinf=0.0)


def _difference(a: Array | None, b: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.zeros_like(b) if a is None else np.asarray(np.abs(a - b))


def _errors(call: Call, index: int, old: Wide, g: Array, new: Wide) -> Wide:
    """Rounding errors of the new weights and moments, and of what storing them computes."""
    sizes = _state_errors(call)
    moved = []
    for signs in product((-1, 1), repeat=4):
        inputs = Wide(
            old.p * (1 + signs[3] * FLOAT_ERROR), _moved(old.m, sizes[0], signs[0]), _moved(old.v, sizes[1], signs[1])
        )
        moved.append(step(call.rule, inputs, g * (1 + signs[2] * FLOAT_ERROR), call.row(index)))
    return Wide(
        _largest([_difference(other.p, new.p) for other in moved]),
        None if new.m is None else _largest([_difference(other.m, new.m) for other in moved]) + _share(new.m, sizes[0]),
        None if new.v is None else _largest([_difference(other.v, new.v) for other in moved]) + _share(new.v, sizes[1]),
    )


def _share(x: Array, error: float) -> Array:
    """`error` of every finite |x|."""
    return error * np.nan_to_num(np.abs(x), nan=0.0, posinf=0.0)


def _signs(x: Array | None) -> list[Array]:
    """Up, down, away from the middle magnitude and towards it."""
    if x is None:
        return [np.zeros(0)]
    magnitude = np.where(np.isfinite(x), np.abs(x), 0.0)
    away = np.where(magnitude > (np.median(magnitude) if x.size else 0.0), 1.0, -1.0) * np.sign(x)
    return [np.ones(x.shape), -np.ones(x.shape), away, -away]


def _moved_results(new: Wide, errors: Wide) -> Iterator[Wide]:
    """New weights and moments moved by their errors, in all directions together, then every element for itself."""
    scattered = np.random.default_rng(new.p.size).choice((-1.0, 1.0), (SCATTERED, 2, new.p.size))
    for place, (m, v) in enumerate((*product(_signs(new.m), _signs(new.v)), *scattered)):
        yield Wide(
            new.p + (-1) ** place * errors.p,
            None if new.m is None or errors.m is None else new.m + m * errors.m,
            None if new.v is None or errors.v is None else new.v + v * errors.v,
        )


def _values(call: Call, index: int, written: Written) -> dict[str, Array]:
    """What is compared of one tensor: p, w, m, v and the groups' numbers."""
    row = call.row(index)
    keys = int(row.first_key), int(row.second_key)
    m, v = read_moments(call.codecs, written.m, written.v, written.p.size, keys, int(row.offset))
    values = {"p": written.p}
    if written.residual is not None:
        values["w"] = join_weight(written.p, written.residual)
    for name, moment, kept in (("m", m, written.m), ("v", v, written.v)):
        if moment is not None and kept is not None:
            values[name] = moment
            if kept.scale.size:
                values[f"{name}_scale"] = kept.scale.astype(np.float64)
    return values


def values(args: Sequence[Any], results: Sequence[Tensor]) -> list[Tensor]:
    """What is compared of the op's results (p, m, m_scale, v, v_scale, residual, one after the other): for each tensor
    p, with a residual the weight, the moments as they read back, and the groups' numbers."""
    call = Call(*args)
    lists, rest = [], list(results)
    for tensors in (call.p, call.m, call.m_scale, call.v, call.v_scale, call.residual):
        lists.append(rest[: len(tensors)])
        rest = rest[len(tensors) :]
    p, m, m_scale, v, v_scale, residual = lists
    first, second = call.codecs
    out: list[Tensor] = []
    for index in range(len(p)):
        written = Written(
            numpy_of(p[index]).astype(np.float64),
            numpy_of(residual[index]).astype(np.int8) if residual else None,
            stored(first, m, m_scale, index),
            stored(second, v, v_scale, index),
        )
        out += [torch.from_numpy(x) for x in _values(call, index, written).values()]
    return out


def tolerance(*args: Any) -> list[Tensor]:
    """Bounds of what `values` gives."""
    call = Call(*args)
    out: list[Tensor] = []
    for index in range(len(call.p)):
        old, g = read(call, index), gradient(call, index)
        new = step(call.rule, old, g, call.row(index))
        errors = _errors(call, index, old, g, new)
        base = _values(call, index, write(call, index, new))
        moved = [_values(call, index, write(call, index, wide)) for wide in _moved_results(new, errors)]
        reading = dict(zip(("m", "v"), _state_errors(call), strict=True))
        for name, x in base.items():
            bound = SLACK * _largest([_difference(other[name], x) for other in moved])
            out.append(torch.from_numpy(bound + _share(x, reading.get(name, FLOAT_ERROR))))
    return out
