"""Pieces of the models of other people's codecs: groups, nearest values of a table, E4M3, bfloat16.

All arithmetic is float32, as in their kernels; over thousands of steps the exact encoders of `formats`, to which the
tests hold these, would take six and nineteen times as long. Values that are not finite go through it by IEEE's rules;
callers wrap `store` and `load` in `quiet`, because that is what a model of a defect has to do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import get

Float32Array = NDArray[np.float32]
Codes = NDArray[np.uint8]
E4M3_MAX = float(get("e4m3fn").max)
Call = TypeVar("Call", bound=Callable[..., Any])


def quiet(call: Call) -> Call:
    """`call` without numpy's warnings about overflow, division by zero and NaN."""

    @wraps(call)
    def run(*args: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            return call(*args, **options)

    return run  # type: ignore[return-value]


def grouped(x: Float32Array, group: int) -> Float32Array:
    """[groups, group] of the flattened array; zeros fill up the last one."""
    flat = x.reshape(-1)
    missing = -flat.size % group
    if missing:
        flat = np.concatenate([flat, np.zeros(missing, np.float32)])
    return flat.reshape(-1, group)


def ungrouped(groups: Float32Array, shape: tuple[int, ...]) -> Float32Array:
    """The array of `shape` that `grouped` came from."""
    return groups.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def amax(groups: Float32Array) -> Float32Array:
    """Largest magnitude of each group, [groups, 1]."""
    return np.abs(groups).max(axis=1, keepdims=True, initial=np.float32(0))


def or_one(scale: Float32Array) -> Float32Array:
    """`scale` with 1 in the place of 0, to divide by."""
    return np.where(scale == 0, np.float32(1), scale)


def e4m3_codes(y: Float32Array) -> Codes:
    """E4M3FN codes, to nearest even, magnitudes clamped to 448; NaN is 0x7F."""
    magnitude = np.minimum(np.abs(y), np.float32(E4M3_MAX))
    bits = magnitude.view(np.uint32)
    normal = ((bits + np.uint32(0x7FFFF) + ((bits >> 20) & np.uint32(1))) >> 20) - np.uint32(120 << 3)
    tiny = np.rint(magnitude * np.float32(512)).astype(np.uint32)
    codes = np.where(magnitude < np.float32(2**-6), tiny, normal)
    codes = np.where(np.isnan(magnitude), np.uint32(0x7F), codes)
    return (codes | ((np.ascontiguousarray(y).view(np.uint32) >> 24) & np.uint32(0x80))).astype(np.uint8)


@lru_cache(maxsize=8)
def values_of(name: str) -> Float32Array:
    """float32 value of every code of a registered format of at most 8 bits."""
    fmt = get(name)
    return fmt.decode(np.arange(1 << fmt.bits)).astype(np.float32)


@lru_cache(maxsize=8)
def _midpoints(table: tuple[float, ...]) -> Float32Array:
    values = np.array(table, np.float32)
    return (values[1:] + values[:-1]) / np.float32(2)


def nearest_codes(y: Float32Array, table: tuple[float, ...]) -> Codes:
    """Index of the nearest value of an ascending table (ties to the smaller one)."""
    return np.searchsorted(_midpoints(table), y).astype(np.uint8)


def to_bf16(x: Float32Array, random: NDArray[np.uint32] | None = None) -> NDArray[np.uint16]:
    """bfloat16 bits: to nearest even, or with `random` (0 … 65535 for each element) added to the discarded half.

    Infinities and NaN keep their upper half; the largest finite values may round to infinity.
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    step = np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)) if random is None else random
    special = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    return (np.where(special, bits, bits + step) >> 16).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> Float32Array:
    """float32 of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def draws(shape: tuple[int, ...], seed: int, stream: int) -> NDArray[np.uint32]:
    """Random numbers of 16 bits for each element."""
    return np.random.default_rng((seed, stream)).integers(0, 1 << 16, shape, dtype=np.uint32)
