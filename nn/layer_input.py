"""What every layer asks of its input."""

from __future__ import annotations

import torch
from torch import Tensor


def check_floating(input: Tensor) -> None:
    """TypeError unless the dtype is a floating one."""
    if not input.is_floating_point():
        raise TypeError(f"input: expected a floating dtype, got {input.dtype}")


def check_features(input: Tensor, features: int) -> None:
    """ValueError unless the last axis is `features` long, TypeError unless the dtype is a floating one."""
    if input.shape[-1] != features:
        raise ValueError(f"input: expected last axis {features}, got shape {tuple(input.shape)}")
    check_floating(input)


def in_autocast_dtype(input: Tensor) -> Tensor:
    """The input in the dtype that autocast gives products, where it is on."""
    kind = input.device.type
    return input.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else input


def as_rows(input: Tensor, features: int) -> Tensor:
    """Checks an input [..., features], casts it as autocast says, and gives its rows [T, features]."""
    check_features(input, features)
    return in_autocast_dtype(input).reshape(input.shape[:-1].numel(), features)
