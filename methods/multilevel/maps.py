"""How one tensor changes when the units along its axes are paired.

A width of ``n`` becomes ``n/2``: unit ``i`` and unit ``i + n/2`` are a pair. Along an axis that a network writes to
(outputs), a pair coalesces into its mean and de-coalesces into two copies; along one that it reads from (inputs), into
the sum, and back into halves::

    copied:  W_small = (W[:n/2] + W[n/2:]) / 2      W_big = [W_small; W_small]
    split:   W_small =  W[:n/2] + W[n/2:]           W_big = [W_small / 2, W_small / 2]

A layer that is split along its inputs and copied along its outputs maps ``[x; x]`` to ``[W x; W x]``, so that the big
network computes every activation of the small one twice. As all factors are powers of two, coalescing takes
de-coalescing back to the bit.

The two halves of an axis are whole heads, and the same ones for queries, keys and values, so nothing inside a head, and
with it no rotary pair, is mixed.
"""

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor


class Axis(Enum):
    """What happens along an axis."""

    KEPT = "kept"
    COPIED = "copied"
    SPLIT = "split"


def coalesce_tensor(big: Tensor, axes: Sequence[Axis]) -> Tensor:
    """The small tensor, of the same dtype; paired axes have half the size. ``ValueError`` for an odd size."""
    _check_axes(big, axes)
    for dim, axis in enumerate(axes):
        if axis is not Axis.KEPT and big.shape[dim] % 2:
            raise ValueError(f"big: expected an even size along axis {dim} to pair, got shape {tuple(big.shape)}")
    for dim, axis in enumerate(axes):
        if axis is Axis.KEPT:
            continue
        first, second = big.chunk(2, dim=dim)
        big = first + second if axis is Axis.SPLIT else (first + second) / 2
    return big


def decoalesce_tensor(small: Tensor, axes: Sequence[Axis]) -> Tensor:
    """The big tensor, of the same dtype; paired axes have twice the size."""
    _check_axes(small, axes)
    for dim, axis in enumerate(axes):
        if axis is Axis.KEPT:
            continue
        half = small / 2 if axis is Axis.SPLIT else small
        small = torch.cat((half, half), dim=dim)
    return small


def _check_axes(tensor: Tensor, axes: Sequence[Axis]) -> None:
    if len(axes) != tensor.ndim:
        raise ValueError(f"axes: expected one for each of the {tensor.ndim} axes, got {len(axes)}")
