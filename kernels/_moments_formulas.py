"""Formulas of stored moments in numpy and float64, of groups [groups, group] and their numbers [groups, 1] each, which
broadcast: the kinds of `kernels/moments.py` that are more than a format and a scale. No regard to speed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narrowgauge.kernels._masters_reference import bfloat16_up
from narrowgauge.kernels.moments import LOG_UNIT, MOST_POWER, QUANTILE, SMALLEST_MAGNITUDE, SMALLEST_STEP, MomentCodec

Array = NDArray[np.float64]


def extremes(magnitude: Array) -> tuple[Array, Array]:
    """Largest and smallest positive magnitude of every group, [groups, 1]; 1 and 1 for groups of zeros."""
    amax = magnitude.max(axis=1, keepdims=True, initial=0.0)
    smallest = np.where(magnitude > 0, magnitude, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    return np.where(amax > 0, amax, 1.0), np.where(amax > 0, smallest, 1.0)


def expanded_numbers(groups: Array, codec: MomentCodec) -> tuple[Array, Array]:
    """(what is encoded, (a, k) [groups, 2]) of groups."""
    magnitude = np.where(np.abs(groups) < SMALLEST_MAGNITUDE, 0.0, np.abs(groups))
    amax, smallest = extremes(magnitude)
    steps = codec.power_steps
    power = np.floor(steps * codec.log2_range / np.log2(amax / smallest)) / steps
    power = np.clip(power, codec.least_power, MOST_POWER)
    y = codec.element.max * (magnitude / amax) ** power
    return np.copysign(y, groups), np.concatenate([amax, power], axis=1)


def expanded_values(values: Array, numbers: Array, codec: MomentCodec) -> Array:
    """What decoded codes read back as."""
    magnitude = np.abs(values) / codec.element.max
    return np.asarray(np.sign(values) * numbers[:, :1] * magnitude ** (1.0 / numbers[:, 1:]))


def log_numbers(groups: Array, levels: int, most_step: float) -> tuple[Array, Array]:
    """(lo, D) of groups, [groups, 1]; 0 and 1 for groups of zeros."""
    magnitude = np.where(groups < SMALLEST_MAGNITUDE, 0.0, groups)
    amax, smallest = extremes(magnitude)
    lo = np.floor(np.maximum(np.log2(smallest), np.log2(amax) - levels * most_step) / LOG_UNIT) * LOG_UNIT
    step = bfloat16_up(np.maximum((np.log2(amax) - lo) / levels, SMALLEST_STEP))
    occupied = magnitude.any(axis=1, keepdims=True)
    return np.where(occupied, lo, 0.0), np.where(occupied, step, 1.0)


def log_codes(x: Array, lo: Array, step: Array, levels: int, rounding: str, draws: Array) -> NDArray[np.integer]:
    """Codes 0 … levels + 1 of second moments under given lo and D, which broadcast against x, as the draws do."""
    positive = x >= SMALLEST_MAGNITUDE
    y = np.clip((np.log2(np.where(positive, x, 1.0)) - lo) / step, 0.0, levels)
    if rounding == "nearest":
        place = np.rint(y)
    elif rounding == "dither":
        place = np.floor(y + draws)
    else:
        place = np.floor(y) + (draws <= log_probability(y - np.floor(y), step))
    return np.where(positive, 1 + np.minimum(place, levels), 0).astype(np.int64)


def log_probability(fraction: Array, step: Array) -> Array:
    """With which probability the upper neighbour is taken `fraction` of the way, in octaves, between two codes."""
    return np.asarray(np.expm1(np.log(2) * fraction * step) / np.expm1(np.log(2) * step))


def log_values(codes: Array, lo: Array, step: Array, rounding: str, draws: Array) -> Array:
    """What codes read back as."""
    place, gain = codes - 1.0, np.ones_like(step)
    if rounding == "dither":
        place = place + 0.5 - draws
        half = step * np.log(2) / 2
        gain = half / np.sinh(half)
    values = np.exp2(np.maximum(lo + place * step, np.log2(SMALLEST_MAGNITUDE))) * gain
    return np.where(np.isnan(step), np.nan, np.where(codes == 0, 0.0, values))


def softsign_codes(z: Array, levels: int, rounding: str, draws: Array) -> NDArray[np.integer]:
    """Codes -levels … levels of z."""
    y = levels * 2.0 * z / (1.0 + np.abs(z))
    codes = np.rint(y) if rounding == "nearest" else np.floor(y + draws)
    return np.asarray(np.clip(codes, -levels, levels).astype(np.int64))


def softsign_values(codes: Array, levels: int, rounding: str, draws: Array) -> Array:
    """z of codes."""
    t = (codes + (0.5 - draws if rounding == "dither" else 0.0)) / levels
    return np.asarray(t / (2.0 - np.abs(t)))


def quantile_numbers(groups: Array, codec: MomentCodec) -> Array:
    """(a, α) of groups, [groups, 2]; (0, 1) for groups of zeros."""
    numbers = np.tile([0.0, 1.0], (len(groups), 1))
    for row, group in zip(numbers, groups, strict=True):
        positive = group[group >= SMALLEST_MAGNITUDE]
        if positive.size:
            row[0] = positive.max()
            row[1] = np.quantile(positive / row[0], QUANTILE) ** (1.0 / ((1 << codec.bits) - 1))
    return np.asarray(numbers.astype(np.float32).astype(np.float64))


def quantile_codes(groups: Array, numbers: Array, codec: MomentCodec, draws: Array) -> NDArray[np.integer]:
    """Codes 0 … 2^bits - 1 under (a, α)."""
    last = (1 << codec.bits) - 1
    amax, base = numbers[:, :1], numbers[:, 1:]
    ratio = np.where(amax > 0, np.maximum(groups, SMALLEST_MAGNITUDE) / np.where(amax > 0, amax, 1.0), 1.0)
    y = np.where(base < 1, np.log(ratio) / np.log(np.where(base < 1, base, 0.5)), 0.0)
    return np.clip(np.floor(y + draws), 0, last).astype(np.int64)
