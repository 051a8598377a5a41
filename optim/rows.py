"""The rows of numbers that an optimizer step takes (kernels/step_rules.Row), built on the host or on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.kernels.random_words import MULTIPLIERS, STREAMS, mix

_MASK = 0xFFFFFFFF


class Numbers(NamedTuple):
    """What a rule puts into a row. Each a float, or where `step` or `lr` is a tensor, one of them."""

    lr: Any
    weight_decay: Any = 0.0
    a: Any = 0.0
    b: Any = 0.0
    eps: Any = 0.0
    c1: Any = 1.0
    c2: Any = 1.0


class Draws(NamedTuple):
    """Which keys a step needs: for rounding m, v and the parameter, and (dither) for reading m and v."""

    first: bool
    second: bool
    weight: bool
    read_first: bool
    read_second: bool


def stage(seed: int, position: int, purpose: int) -> int:
    """The part of a key that no step changes: key(seed, stream, step) = mix(stage + step)."""
    return mix(mix(seed) + STREAMS * position + purpose)


_kept_stage = lru_cache(maxsize=65536)(stage)


def key_at(seed: int, position: int, purpose: int, step: int) -> int:
    """The key of a step of a parameter's stream."""
    return mix(_kept_stage(seed, position, purpose) + step)


def host_rows(
    steps: Sequence[int], numbers: Callable[[float], Numbers], positions: Sequence[int], offsets: Sequence[int],
    seed: int, draws: Draws, scale: float,
) -> Tensor:  # fmt: skip
    """[tensors, ROW_LENGTH] on the CPU. steps: t of each tensor; numbers(t): what the rule says."""
    of_step = {step: numbers(float(step)) for step in set(steps)}
    rows = []
    for step, position, offset in zip(steps, positions, offsets, strict=True):
        wanted = zip(draws, (0, 1, 2, 0, 1), (step, step, step, step - 1, step - 1), strict=True)
        keys = [key_at(seed, position, purpose, when) if needed else 0 for needed, purpose, when in wanted]
        rows.append((step, *of_step[step], scale, *keys, offset))  # the fields of Row
    return torch.tensor(rows, dtype=torch.float64)


def _mix_tensor(x: Tensor) -> Tensor:
    """kernels/random_words.mix of int64 holding 32-bit numbers."""
    x = x & _MASK
    for shift, factor in zip((16, 15), MULTIPLIERS, strict=True):
        x = ((x ^ (x >> shift)) * factor) & _MASK
    return x ^ (x >> 16)


def stages(seed: int, positions: Sequence[int], device: torch.device) -> Tensor:
    """`stage` of every tensor and purpose, int64 [tensors, 3]."""
    values = [[stage(seed, position, purpose) for purpose in range(3)] for position in positions]
    return torch.tensor(values, dtype=torch.int64, device=device)


def device_rows(steps: Tensor, numbers: Numbers, staged: Tensor, offsets: Tensor, draws: Draws, scale: Any) -> Tensor:
    """[tensors, ROW_LENGTH] by tensor operations on the device of `steps` (float64, t of each tensor), waiting for
    nothing. numbers: floats, or tensors of one element or one per row; staged: `stages`; offsets: float64."""

    def column(value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            return torch.full_like(steps, float(value))
        return value.to(steps.device, torch.float64).expand(steps.shape)

    when = steps.to(torch.int64)[:, None]
    keys = torch.cat((_mix_tensor(staged + when), _mix_tensor(staged[:, :2] + when - 1)), dim=1).to(torch.float64)
    wanted = [keys[:, index] if needed else torch.zeros_like(steps) for index, needed in enumerate(draws)]
    head = [steps, *(column(value) for value in numbers), column(scale)]
    return torch.stack([*head, *wanted, offsets], dim=1)
