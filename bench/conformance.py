"""Is an operator right? Its samples, run by what serves the device, against the reference and the bound it states."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels import Op
from narrowgauge.kernels.op import Exact
from narrowgauge.numerics import assert_bitwise, assert_within

SEED = 20260101


def check_samples(op: Op, device: torch.device | str = "cpu") -> int:
    """Runs every sample of an op that writes none of its arguments; how many there were.

    AssertionError, naming the sample and the first difference, when one breaks the op's promise.
    """
    if op.mutates:
        raise ValueError(f"op: {op.name} writes {', '.join(op.mutates)}; only ops that write nothing are checked here")
    count = 0
    for sample in op.samples(np.random.default_rng(SEED), str(device)):
        expected = _results(op.reference(*(_on_cpu(value) for value in sample.args)))
        actual = _results(op(*sample.args))
        for number, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
            name = f"{op.name} {sample.name} output {number}"
            if isinstance(op.bound, Exact):
                assert_bitwise(ours.cpu(), theirs, name=name, nan_equal=True)
            else:
                assert_within(ours.cpu(), theirs, _on_cpu(op.bound.tolerance(*sample.args)), name=name, nan_equal=True)
        count += 1
    return count


def _results(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
