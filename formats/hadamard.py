"""Hadamard rotations along the last axis, in float32, one correctly rounded operation at a time.

    y = (x · D) H / √n      on blocks of n = 2^p consecutive elements; D = diag(±1), the same for every block

H is the Sylvester matrix. It is applied as p passes of butterflies (a, b) → (a + b, a - b) at distances 1, 2, 4 …, in
this order, then one product with 1/√n: equal bits on every device. The last block is filled up with zeros. Rotating
both operands of a product along the axis that is summed leaves the product as it is, (XDH)(WDH)ᵀ = XWᵀ.

Sources: QuaRot (arXiv 2404.00456); MXFP4 training (arXiv 2502.20586, signs of one block, drawn anew for each product);
NVFP4 pretraining (arXiv 2509.25149, blocks of 16, one fixed vector of signs).
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.philox import random_words

FIXED_SIGNS = (0x4E617272, 0)
"""Seed and offset of the signs that never change."""

Float32Array = NDArray[np.float32]


def check_block(size: int) -> None:
    """ValueError unless `size` is a power of two from 2 to 4096."""
    if not 2 <= size <= 4096 or size & (size - 1):
        raise ValueError(f"hadamard: blocks have 2 to 4096 elements, a power of two; got {size}")


def signs(size: int, seed: int, offset: int) -> Float32Array:
    """`size` random signs, ±1: the highest bit of each word of the stream (1 means -1)."""
    return np.where(random_words(size, seed, offset) >> np.uint32(31) == 1, np.float32(-1), np.float32(1))


def padded(x: Float32Array, size: int) -> Float32Array:
    """`x` with its last axis filled up with zeros to whole blocks."""
    missing = -x.shape[-1] % size
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def rotate(x: Float32Array, size: int, sign: Float32Array | None = None) -> Float32Array:
    """The rotation of blocks of `size` along the last axis; float32 [..., K filled up to a multiple of `size`]."""
    check_block(size)
    x = padded(np.asarray(x, dtype=np.float32), size)
    blocks = x.reshape(*x.shape[:-1], x.shape[-1] // size, size)
    if sign is not None:
        blocks = blocks * sign
    return _transformed(blocks).reshape(x.shape)


def rotate_back(y: Float32Array, size: int, sign: Float32Array | None, columns: int) -> Float32Array:
    """The inverse of `rotate`, cut to `columns`. Exact up to the roundings of float32."""
    check_block(size)
    blocks = _transformed(np.asarray(y, dtype=np.float32).reshape(*y.shape[:-1], y.shape[-1] // size, size))
    if sign is not None:
        blocks = blocks * sign
    return blocks.reshape(y.shape)[..., :columns]


def _transformed(blocks: Float32Array) -> Float32Array:
    size = blocks.shape[-1]
    distance = 1
    with np.errstate(invalid="ignore", over="ignore"):
        while distance < size:
            pairs = blocks.reshape(*blocks.shape[:-1], size // (2 * distance), 2, distance)
            first, second = pairs[..., 0, :], pairs[..., 1, :]
            blocks = np.stack((first + second, first - second), axis=-2).reshape(blocks.shape)
            distance *= 2
        return blocks * np.float32(1.0 / sqrt(size))
