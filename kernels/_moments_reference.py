"""Stored moments in numpy and float64: the definition of `kernels/moments.py`, with no regard to speed.

What a definition rounds (the numbers of a group, stored values) is rounded here, too; everything else is float64. A
probability p goes up where u <= p; the places that a last byte of packed codes has too many hold the code of zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.scaling import amax_scale
from narrowgauge.kernels._masters_reference import bfloat16, bfloat16_number
from narrowgauge.kernels._moments_formulas import (
    expanded_numbers,
    expanded_values,
    log_codes,
    log_numbers,
    log_values,
    quantile_codes,
    quantile_numbers,
    softsign_codes,
    softsign_values,
)
from narrowgauge.kernels.moments import LOG_UNIT, NAN_BITS, SMALLEST_MAGNITUDE, MomentCodec
from narrowgauge.kernels.random_words import halves, uniform

Array = NDArray[np.float64]
Codes = NDArray[np.generic]
Shape = tuple[int, ...]


class Stored(NamedTuple):
    """codes: flat, packed, integers; float32 values for `plain`. scale: of the shape and dtype that the codec says,
    bfloat16 numbers as float32."""

    codes: Codes
    scale: Codes


def _grouped(x: NDArray[np.generic], group: int, fill: float = 0.0) -> Array:
    """[groups, group], the last one filled up."""
    padded = np.full(-(-x.size // group) * group, fill)
    padded[: x.size] = x.reshape(-1)
    return padded.reshape(-1, group)


def _draws(count: int, codec: MomentCodec, key: int, offset: int) -> Array:
    """u of every element, grouped."""
    if not codec.draws:
        return np.full((-(-count // codec.group), codec.group), 0.5)
    return _grouped(uniform(count, key, offset), codec.group, 0.5)


def encode_reference(x: Array, codec: MomentCodec, key: int = 0, offset: int = 0, shape: Shape | None = None) -> Stored:
    """One moment as it is stored. x: float64 holding float32 values, of the tensor's `shape` (its own by default).
    key, offset: of the draws. What is whitened comes whitened (see `encode_pair`)."""
    shape = x.shape if shape is None else shape
    flat = x.reshape(-1)
    if codec.kind == "plain":
        return Stored(_plain(flat, codec, key, offset), np.zeros((0, 0)))
    if codec.kind == "rank-1" and len(shape) > 1:
        stored = _encode_rank1(flat, codec, shape)
    else:
        stored = _encode_groups(flat, codec, key, offset)
    return Stored(pack_reference(stored.codes[: flat.size], codec), stored.scale)


def decode_reference(
    codes: Codes, scale: Codes, codec: MomentCodec, shape: Shape | None = None, key: int = 0, offset: int = 0
) -> Array:
    """float64 values, flat, of what `encode_reference` gave for a tensor of `shape` (that of the codes by default).
    key, offset: of the step that wrote them. Whitened moments come whitened."""
    shape = codes.shape if shape is None else shape
    count = int(np.prod(shape, dtype=np.int64))
    if codec.kind == "plain":
        return np.asarray(codes.reshape(-1).astype(np.float64))
    flat = unpack_reference(codes, codec, count)
    if codec.kind == "rank-1" and len(shape) > 1:
        return np.asarray((_matrix(codec.element.decode(flat), shape) * _rank1_scale(scale, shape)).reshape(-1))
    numbers = scale.astype(np.float64)
    draws = _draws(count, codec, key, offset)
    if codec.kind in ("log", "softsign", "quantile"):
        values = _COMPUTED[codec.kind](_grouped(flat, codec.group), scale, codec, draws)
    else:
        values = _grouped(codec.element.decode(flat), codec.group)
        values = expanded_values(values, numbers, codec) if codec.kind == "expanded" else values * numbers[:, :1]
    values = values**2 if codec.kind == "root" else values
    return np.asarray(values.reshape(-1)[:count])


def pack_reference(codes: Codes, codec: MomentCodec) -> NDArray[np.integer]:
    """Codes as they are stored: bytes of `per_byte` codes, the first in the low bits."""
    if codec.per_byte == 1:
        dtype = {"torch.int8": np.int8, "torch.uint8": np.uint8}[str(codec.dtype)]
        return codes.astype(dtype)
    filled = np.full(-(-codes.size // codec.per_byte) * codec.per_byte, codec.zero_code, dtype=np.int64)
    filled[: codes.size] = codes.astype(np.int64) & (1 << codec.bits) - 1
    places = filled.reshape(-1, codec.per_byte) << codec.bits * np.arange(codec.per_byte)
    return np.asarray(places.sum(axis=1).astype(np.uint8))


def unpack_reference(codes: Codes, codec: MomentCodec, count: int) -> NDArray[np.integer]:
    """The `count` codes of what `pack_reference` gave, flat."""
    flat: NDArray[np.integer] = np.asarray(codes.reshape(-1), dtype=codes.dtype)
    if codec.per_byte > 1:
        places = flat.astype(np.int64)[:, None] >> codec.bits * np.arange(codec.per_byte)
        flat = (places & (1 << codec.bits) - 1).reshape(-1)[:count]
        if codec.kind == "softsign":
            flat = np.where(flat >= 1 << codec.bits - 1, flat - (1 << codec.bits), flat)
        elif codec.kind != "log":
            flat = flat.astype(np.uint8)
    return flat


def _plain(x: Array, codec: MomentCodec, key: int, offset: int) -> Array:
    if codec.format == "fp32":
        return x
    return bfloat16(x, halves(x.size, key, offset) if codec.draws else None)


def _encode_groups(x: Array, codec: MomentCodec, key: int, offset: int) -> Stored:
    """Codes, not packed, the last group filled up, and numbers of the kinds that have groups."""
    groups = _grouped(x, codec.group)
    finite = np.isfinite(groups).all(axis=1, keepdims=True)
    groups = np.where(finite, groups, 0.0)
    draws = _draws(x.size, codec, key, offset)
    with np.errstate(divide="ignore", over="ignore"):
        if codec.kind == "log":
            lo, step = log_numbers(groups, codec.levels, codec.most_step)
            codes = log_codes(groups, lo, step, codec.levels, codec.rounding, draws)
            scale = np.where(finite, np.concatenate([lo / LOG_UNIT, bfloat16_bits(step)], axis=1), [[0, NAN_BITS]])
            return Stored(np.where(finite, codes, 0).reshape(-1), scale.astype(np.int16))
        if codec.kind == "softsign":
            numbers = _scale(groups, codec, 1.0)
            z = groups / np.where(numbers > 0, numbers, 1.0)
            codes = softsign_codes(z, codec.levels, codec.rounding, draws)
        elif codec.kind == "quantile":
            numbers = quantile_numbers(groups, codec)
            codes = quantile_codes(groups, numbers, codec, draws)
        elif codec.kind == "expanded":
            y, numbers = expanded_numbers(groups, codec)
            codes = _element_codes(y, np.abs(groups) >= SMALLEST_MAGNITUDE, codec)
        else:
            values = np.sqrt(groups) if codec.kind == "root" else groups
            numbers = _scale(values, codec, codec.element.amax_target)
            y = np.clip(values / numbers, codec.lowest, codec.largest)
            codes = _element_codes(y, groups > 0, codec)
    codes = np.where(finite, codes, codec.zero_code)
    return Stored(codes.reshape(-1), np.where(finite, numbers, np.nan).astype(np.float32))


def _scale(groups: Array, codec: MomentCodec, target: float) -> Array:
    """Scales of groups, [groups, 1], as they are stored."""
    amax = np.abs(groups).max(axis=1, keepdims=True, initial=0.0)
    scale = amax_scale(amax, target, zero=codec.zero_scale[0])
    return bfloat16_number(scale) if codec.scale_dtype == "bfloat16" else scale.astype(np.float64)


def bfloat16_bits(x: Array) -> NDArray[np.int64]:
    """Upper half of the bits of bfloat16 numbers."""
    return np.asarray(x.astype(np.float32).view(np.uint32).astype(np.int64) >> 16)


def _element_codes(y: Array, positive: NDArray[np.bool_], codec: MomentCodec) -> NDArray[np.integer]:
    """Codes of the codec's format; for second moments that of the smallest value where `positive` would become 0."""
    codes = codec.element.encode(y)
    if codec.second:
        smallest = codec.element.encode(codec.element.smallest_subnormal)
        codes = np.where((codes == codec.zero_code) & positive, smallest, codes)
    return np.asarray(codes)


def _decode_log(codes: Array, scale: Codes, codec: MomentCodec, draws: Array) -> Array:
    bits = scale[:, 1:].astype(np.uint16).astype(np.uint32) << np.uint32(16)
    step = bits.view(np.float32).astype(np.float64)
    return log_values(codes, scale[:, :1].astype(np.float64) * LOG_UNIT, step, codec.rounding, draws)


def _decode_softsign(codes: Array, scale: Codes, codec: MomentCodec, draws: Array) -> Array:
    return softsign_values(codes, codec.levels, codec.rounding, draws) * scale.astype(np.float64)


def _decode_quantile(codes: Array, scale: Codes, codec: MomentCodec, draws: Array) -> Array:
    numbers = scale.astype(np.float64)
    return np.asarray(numbers[:, :1] * numbers[:, 1:] ** codes)


_COMPUTED = {"log": _decode_log, "softsign": _decode_softsign, "quantile": _decode_quantile}


def _encode_rank1(x: Array, codec: MomentCodec, shape: Shape) -> Stored:
    """Codes and the numbers of rows and columns, flat, of a tensor of several axes, the later ones as one."""
    matrix = _matrix(x, shape)
    finite = np.isfinite(matrix)
    known = np.where(finite, matrix, 0.0)
    scale = np.concatenate(
        [
            np.where(
                finite.all(axis=axis), amax_scale(known.max(axis=axis, initial=0.0), codec.element.amax_target), np.nan
            )
            for axis in (1, 0)
        ]
    ).astype(np.float32)
    combined = _rank1_scale(scale, shape)
    y = known / np.where(np.isnan(combined), 1.0, combined)
    codes = _element_codes(y, known > 0, codec)
    return Stored(np.where(finite, codes, codec.zero_code).reshape(-1), scale)


def _matrix(x: Array, shape: Shape) -> Array:
    return x.reshape(shape[0], int(np.prod(shape[1:], dtype=np.int64)))


def _rank1_scale(scale: Codes, shape: Shape) -> Array:
    """Scales of elements, [rows, columns]: the smaller of the row's and the column's that is not NaN, so that a NaN
    reaches the crossings of rows and columns that hold one, not all of those."""
    numbers = scale.astype(np.float64)
    return np.fmin(numbers[: shape[0], None], numbers[None, shape[0] :])


def encode_pair(
    m: Array, v: Array, first: MomentCodec, second: MomentCodec, keys: tuple[int, int] = (0, 0), offset: int = 0
) -> tuple[Stored, Stored]:
    """m, whitened if its codec says so, and v as they are stored. Flat; keys: of m and of v."""
    stored = encode_reference(v, second, keys[1], offset)
    if first.whitened:
        m = whitened(m, decode_reference(*stored, second, v.shape, keys[1], offset))
    return encode_reference(m, first, keys[0], offset), stored


def decode_pair(
    m: Stored, v: Stored, first: MomentCodec, second: MomentCodec, count: int, keys: tuple[int, int] = (0, 0),
    offset: int = 0,
) -> tuple[Array, Array]:  # fmt: skip
    """(m, v) of what `encode_pair` gave."""
    v_values = decode_reference(*v, second, (count,), keys[1], offset)
    m_values = decode_reference(*m, first, (count,), keys[0], offset)
    return m_values * np.sqrt(v_values) if first.whitened else m_values, v_values


def whitened(m: Array, v: Array) -> Array:
    """m / sqrt(v), 0 where v is 0, as float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = m / np.sqrt(np.where(v == 0, 1.0, v))
        return np.where(v == 0, 0.0, x).astype(np.float32).astype(np.float64)
