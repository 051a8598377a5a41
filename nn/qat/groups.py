"""Which weights share a scale: the whole tensor, a row (output channel), or runs of G along a row.

A weight [N, K] is seen as [tiles down, tiles across, elements of a tile], the scale as [tiles down, tiles across],
which is `Scheme.scale_shape((N, K))`:

    tensor   [1, 1, N·K]     row   [N, 1, K]     G   [N, K/G, G]
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

Granularity = str | int
"""`"tensor"`, `"row"` or the number of weights of a group."""


def check_granularity(granularity: Any) -> Granularity:
    """The granularity, if it is one. ValueError names what is accepted."""
    whole = isinstance(granularity, int) and not isinstance(granularity, bool)
    if granularity in ("tensor", "row") or (whole and granularity >= 1):
        return granularity
    raise ValueError(f"granularity: got {granularity!r}, accepted: 'tensor', 'row', or a group size of at least 1")


def check_divides(weight: Tensor, granularity: Granularity) -> None:
    """ValueError where groups do not divide the rows of `weight`."""
    if isinstance(granularity, int) and weight.shape[-1] % granularity:
        raise ValueError(f"group: {granularity} does not divide the {weight.shape[-1]} inputs of the layer")


def to_groups(weight: Tensor, granularity: Granularity) -> Tensor:
    """`weight` [N, K] as [tiles down, tiles across, elements], without a copy if it is contiguous."""
    if granularity == "tensor":
        return weight.reshape(1, 1, -1)
    if granularity == "row":
        return weight.unsqueeze(1)
    return weight.unflatten(1, (-1, int(granularity)))


def scheme_text(element: str, granularity: Granularity) -> str:
    """The scheme of codes of `element` with that granularity."""
    if granularity == "tensor":
        return element
    return f"{element}/row" if granularity == "row" else f"{element}/1x{granularity}"
