"""Block Hadamard transform along the last axis, orthonormal and its own inverse, in front of quantisers.

    x [..., K] in blocks of n = 2^p:   y = x · H_n / √n,   H_2n = [[H_n, H_n], [H_n, −H_n]]

The rotation of `narrowgauge.nn.stages.rotation`, in float32 whatever the dtype of `x`, for blocks that divide K.
"""

from __future__ import annotations

from torch import Tensor

from narrowgauge.nn.stages.rotation import rotated


def check_block(block: int, features: int) -> None:
    """ValueError unless `block` is a power of two that divides `features`."""
    if block < 1 or block & (block - 1) or features % block:
        raise ValueError(f"rotate: got {block}, accepted: 0, or a power of two that divides the {features} inputs")


def largest_block(features: int, most: int) -> int:
    """The largest power of two that divides `features`, at most `most`."""
    return min(features & -features, most) if features else 1


def hadamard(x: Tensor, block: int) -> Tensor:
    """`x` [..., K] with every run of `block` elements transformed; shape and dtype of `x`. block 0 or 1: `x` itself.

    ValueError unless `block` is a power of two that divides K.
    """
    if block in (0, 1):
        return x
    check_block(block, x.shape[-1])
    return rotated(x, block, None).to(x.dtype)
