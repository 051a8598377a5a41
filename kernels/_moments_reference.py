"""Stored moments in numpy and float64: the definition of `kernels/moments.py`, with no regard to speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.scaling import amax_scale
from narrowgauge.kernels.moments import MOST_POWER, SMALLEST_MAGNITUDE, MomentCodec

Array = NDArray[np.float64]


def _grouped(x: Array, group: int) -> Array:
    """[groups, group], the last one filled up with zeros."""
    padded = np.zeros(-(-x.size // group) * group)
    padded[: x.size] = x.reshape(-1)
    return padded.reshape(-1, group)


def decode_reference(codes: NDArray[np.generic], scale: NDArray[np.float32], codec: MomentCodec) -> Array:
    """float64 values, flat, of the codes of one moment."""
    count = codes.size
    values = _grouped(codec.element.decode(codes.reshape(-1)), codec.group)
    first = scale[:, :1].astype(np.float64)
    if codec.kind == "linear":
        values = values * first
    elif codec.kind == "root":
        values = (values * first) ** 2
    else:
        magnitude = np.abs(values) / codec.element.max
        values = np.sign(values) * first * magnitude ** (1.0 / scale[:, 1:].astype(np.float64))
    return np.asarray(values.reshape(-1)[:count])


def encode_reference(x: Array, codec: MomentCodec) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
    """(codes, flat; float32 scale [groups, columns]) of one moment, flat float64 holding float32 values."""
    groups = _grouped(x, codec.group)
    finite = np.isfinite(groups).all(axis=1, keepdims=True)
    groups = np.where(finite, groups, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        y, scale = _expanded(groups, codec) if codec.kind == "expanded" else _scaled(groups, codec)
    codes = codec.element.encode(y)
    if codec.second:
        smallest = codec.element.encode(codec.element.smallest_subnormal)
        codes = np.where((codes == codec.zero_code) & (np.abs(groups) >= _least(codec)), smallest, codes)
    codes = np.where(finite, codes, codec.zero_code).astype(codec.element.code_dtype)
    return codes.reshape(-1)[: x.size], np.where(finite, scale, np.nan).astype(np.float32)


def _least(codec: MomentCodec) -> float:
    return SMALLEST_MAGNITUDE if codec.kind == "expanded" else np.finfo(np.float64).tiny


def _scaled(groups: Array, codec: MomentCodec) -> tuple[Array, Array]:
    values = np.sqrt(groups) if codec.kind == "root" else groups
    amax = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
    scale = amax_scale(amax, codec.element.amax_target).astype(np.float64)
    return values / scale, scale


def _expanded(groups: Array, codec: MomentCodec) -> tuple[Array, Array]:
    magnitude = np.where(np.abs(groups) < SMALLEST_MAGNITUDE, 0.0, np.abs(groups))
    amax = magnitude.max(axis=1, keepdims=True, initial=0.0)
    smallest = np.where(magnitude > 0, magnitude, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    occupied = amax > 0
    amax, smallest = np.where(occupied, amax, 1.0), np.where(occupied, smallest, 1.0)
    steps = codec.power_steps
    power = np.floor(steps * codec.log2_range / np.log2(amax / smallest)) / steps
    power = np.clip(power, codec.least_power, MOST_POWER)
    y = codec.element.max * (magnitude / amax) ** power
    return np.copysign(y, groups), np.concatenate([amax, power], axis=1)


__all__ = ["decode_reference", "encode_reference"]
