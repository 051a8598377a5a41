"""Is an operator right? Its samples, run by what serves the device, against the reference and the bound it states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels import Op
from narrowgauge.kernels.op import ErrorBound, Sample
from narrowgauge.numerics import assert_bitwise, assert_within

SEED = 20260101


def check_samples(
    op: Op, device: torch.device | str = "cpu", select: Callable[[Sample], bool] = lambda sample: True
) -> int:
    """Runs the samples of an op (those that `select` takes); how many there were.

    Of an op that writes arguments, what it has written is compared. AssertionError, naming the sample and the first
    difference, when one breaks the op's promise; ValueError where no sample was taken.
    """
    count = 0
    for sample in op.samples(np.random.default_rng(SEED), str(device)):
        if select(sample):
            _check(op, sample)
            count += 1
    if not count:
        raise ValueError(f"select: none of the samples of {op.name} was taken")
    return count


def _check(op: Op, sample: Sample) -> None:
    host = _moved(sample.args)
    expected = _flat(op.reference(*_copied(host)))
    actual = _moved(_results(op, _copied(sample.args)))
    bounds: list[Any] = [None] * len(expected)
    if isinstance(op.bound, ErrorBound):
        if op.bound.values is not None:
            actual, expected = (list(op.bound.values(host, results)) for results in (actual, expected))
        tolerance = op.bound.tolerance(*host)
        bounds = list(tolerance) if isinstance(tolerance, list | tuple) else [tolerance] * len(expected)
    for number, (ours, theirs, bound) in enumerate(zip(actual, expected, bounds, strict=True)):
        name = f"{op.name} {sample.name} output {number}"
        if bound is None:
            assert_bitwise(ours, theirs, name=name, nan_equal=True)
        else:
            assert_within(ours, theirs, bound, name=name, nan_equal=True)


def _results(op: Op, args: list[Any]) -> list[Tensor]:
    """What a call returns, or has written."""
    returned = op(*args)
    if not op.mutates:
        return _flat(returned)
    names = [argument.name for argument in getattr(torch.ops.narrowgauge, op.name).default._schema.arguments]
    return _flat([args[names.index(name)] for name in op.mutates])


def _flat(value: Any) -> list[Tensor]:
    """The tensors of a value, one after the other."""
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _flat(item)]
    return [] if value is None else [value]


def _copied(value: Any) -> Any:
    """Tensors of the same strides."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device).copy_(value)
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _moved(value: Any) -> Any:
    """Everything on the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    return [_moved(item) for item in value] if isinstance(value, list | tuple) else value
