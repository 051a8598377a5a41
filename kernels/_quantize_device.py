"""Triton device functions that the kernels of quantize, dequantize and their combinations share.

A program works on a block of BLOCK_M rows and BLOCK_K columns that begins at (first_m, first_k). T, a `Tiling`, says
which of its elements share a scale: the block falls into units of T.unit_m rows and T.unit_k columns, each within one
tile, and what belongs to a tile is computed once per unit.
"""

from __future__ import annotations

from narrowgauge.formats.scaling import SMALLEST_OUTER_SCALE
from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import constant, jit, tl

SMALLEST_OUTER = constant(SMALLEST_OUTER_SCALE)


@jit
def block_corner(K, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """(first row, first column) of the program's block, int64; row after row of blocks."""
    blocks_k = tl.cdiv(K, BLOCK_K)
    pid = tl.program_id(0)
    return (pid // blocks_k).to(tl.int64) * BLOCK_M, (pid % blocks_k).to(tl.int64) * BLOCK_K


@jit
def offsets(first_m, first_k, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """(rows [BLOCK_M, 1], columns [1, BLOCK_K]) of a block."""
    return (first_m + tl.arange(0, BLOCK_M))[:, None], (first_k + tl.arange(0, BLOCK_K))[None, :]


@jit
def load(x_ptr, first_m, first_k, M, K, stride_m, stride_k, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """float32 block of x, zero beyond the edges; float64 rounds to odd later, so it stays float64."""
    offs_m, offs_k = offsets(first_m, first_k, BLOCK_M, BLOCK_K)
    mask = (offs_m < M) & (offs_k < K)
    x = tl.load(x_ptr + offs_m * stride_m + offs_k * stride_k, mask=mask, other=0.0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x


@jit
def unit_places(first, size, COUNT: tl.constexpr, UNIT: tl.constexpr, TILE: tl.constexpr):
    """(tile number, whether it is there) of each of a block's units along one axis."""
    start = first + tl.arange(0, COUNT) * UNIT
    return start * 0 if TILE == 0 else start // TILE, start < size


@jit
def unit_entries(first_m, first_k, M, K, stride_tm, stride_tk, T: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_K: tl.constexpr):  # fmt: skip
    """(offset, mask) of each unit's entry in an array with one entry per tile, [units down, units across]."""
    tile_m, there_m = unit_places(first_m, M, BLOCK_M // T.unit_m, T.unit_m, T.tile_m)
    tile_k, there_k = unit_places(first_k, K, BLOCK_K // T.unit_k, T.unit_k, T.tile_k)
    return tile_m[:, None] * stride_tm + tile_k[None, :] * stride_tk, there_m[:, None] & there_k[None, :]


@jit
def unit_maxima(x, T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """Bits of max |x| of every unit, which order like the magnitudes, with NaN on top."""
    bits = _cast.bits_of(tl.abs(x).to(tl.float32))
    if T.unit_m * T.unit_k > 1:
        parts = tl.reshape(bits, (BLOCK_M // T.unit_m, T.unit_m, BLOCK_K // T.unit_k, T.unit_k))
        bits = tl.max(tl.max(parts, axis=3), axis=1)
    return bits


@jit
def spread(values, T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """One value per unit as one per element, or a value of a single unit as it is."""
    DOWN: tl.constexpr = BLOCK_M // T.unit_m
    ACROSS: tl.constexpr = BLOCK_K // T.unit_k
    if DOWN * ACROSS == 1:
        result = values
    elif (DOWN == 1 or DOWN == BLOCK_M) and (ACROSS == 1 or ACROSS == BLOCK_K):
        result = tl.broadcast_to(values, (BLOCK_M, BLOCK_K))
    else:
        wide = tl.broadcast_to(values[:, None, :, None], (DOWN, T.unit_m, ACROSS, T.unit_k))
        result = tl.reshape(wide, (BLOCK_M, BLOCK_K))
    return result


@jit
def scale_of(amax, outer, S: tl.constexpr):
    """(stored scale, float32 factor, its inverse) of each tile. S: a `ScaleLayout`."""
    finite = _cast.is_finite(amax)
    safe = tl.where(finite, amax, 0.0)
    if S.rule == "outer":
        code = _cast.encode(_cast.divide(safe, tl.zeros_like(safe) + outer * S.largest), 0, None, S.element, False)
        stored = tl.where(finite, code, S.element.nan_code)
        factor = _cast.decode(stored, None, S.element) * outer
        inverse = _cast.inverse_scale(factor)
    elif S.rule == "code":
        exponent = _cast.scale_exponent(safe, S.carry, S.emax, S.lowest, S.highest, S.zero_exponent)
        stored = tl.where(finite, exponent + S.bias, S.nan_code)
        factor = tl.where(finite, _cast.power_of_two(exponent), float("nan"))
        inverse = tl.where(finite, _cast.power_of_two(-exponent), 0.0)
    else:
        if S.rule == "amax":
            factor = _cast.amax_scale(amax, S.largest, _cast.TINY, S.zero)
        elif S.rule == "static":
            factor = tl.where(finite, S.static, float("nan"))
        else:
            exponent = _cast.scale_exponent(safe, S.carry, S.emax, S.lowest, S.highest, S.zero_exponent)
            factor = tl.where(finite, _cast.power_of_two(exponent), float("nan"))
            factor = tl.where(amax == 0.0, S.zero, factor)
        stored = factor
        inverse = _cast.inverse_scale(factor)
    return stored, factor, inverse


@jit
def save_scales(x, scale_ptr, outer, first_m, first_k, M, K, stride_tm, stride_tk, S: tl.constexpr, T: tl.constexpr,
                BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Writes the scales of a block of whole tiles; the inverse factor of every unit."""
    amax = _cast.float_of(unit_maxima(x, T, BLOCK_M, BLOCK_K))
    stored, _, inverse = scale_of(amax, outer, S)
    entry, mask = unit_entries(first_m, first_k, M, K, stride_tm, stride_tk, T, BLOCK_M, BLOCK_K)
    tl.store(scale_ptr + entry, stored.to(scale_ptr.dtype.element_ty), mask=mask)
    return inverse


@jit
def raise_largest(x, largest_ptr, T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """Atomic maximum of the largest magnitude (its bits) in a block of whole tiles, of those that are finite."""
    bits = unit_maxima(x, T, BLOCK_M, BLOCK_K)
    tl.atomic_max(largest_ptr, tl.max(tl.where(_cast.is_finite(_cast.float_of(bits)), bits, 0)), sem="relaxed")


@jit
def outer_scale(largest_ptr, outer_ptr, S: tl.constexpr):
    """The tensor's scale in two-level formats, else 1; the first program writes it."""
    if S.rule == "outer":
        amax = _cast.float_of(tl.load(largest_ptr))
        outer = _cast.amax_scale(amax, S.outer_divisor, SMALLEST_OUTER, 1.0)
        tl.store(outer_ptr, outer, mask=tl.program_id(0) == 0)
    else:
        outer = 1.0
    return outer


@jit
def raise_maxima(x, amax_ptr, first_m, first_k, M, K, stride_tm, stride_tk, T: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_K: tl.constexpr):  # fmt: skip
    """Atomic maximum of every unit's largest magnitude (its bits) with its tile's; the next launch reads them."""
    bits = unit_maxima(x, T, BLOCK_M, BLOCK_K)
    entry, mask = unit_entries(first_m, first_k, M, K, stride_tm, stride_tk, T, BLOCK_M, BLOCK_K)
    if T.unit_m == T.tile_m and T.unit_k == T.tile_k:
        tl.store(amax_ptr + entry, bits, mask=mask)
    else:
        tl.atomic_max(amax_ptr + entry, bits, mask=mask, sem="relaxed")


@jit
def load_units(ptr, first_m, first_k, M, K, stride_tm, stride_tk, T: tl.constexpr, BLOCK_M: tl.constexpr,
               BLOCK_K: tl.constexpr):  # fmt: skip
    """The entry of every unit of an array with one entry per tile; a scalar where the block is one unit."""
    if T.unit_m == BLOCK_M and T.unit_k == BLOCK_K:
        tile_m = 0 if T.tile_m == 0 else first_m // T.tile_m
        tile_k = 0 if T.tile_k == 0 else first_k // T.tile_k
        values = tl.load(ptr + tile_m * stride_tm + tile_k * stride_tk)
    else:
        entry, mask = unit_entries(first_m, first_k, M, K, stride_tm, stride_tk, T, BLOCK_M, BLOCK_K)
        values = tl.load(ptr + entry, mask=mask, other=0)
    return values


@jit
def round_to_odd(x):
    """float64 → float32, inexact values to the odd neighbour."""
    inf = x * 0.0 != 0.0
    clipped = tl.where(inf, x, tl.minimum(tl.maximum(x, -3.4028234663852886e38), 3.4028234663852886e38))
    near = clipped.to(tl.float32)
    back = near.to(tl.float64)
    bits = _cast.bits_of(near)
    moved = tl.where(tl.abs(clipped) > tl.abs(back), bits + 1, bits - 1)
    keep = (back == clipped) | (clipped != clipped) | ((bits & 1) == 1)
    return _cast.float_of(tl.where(keep, bits, moved))


@jit
def scaled(x, inverse, T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """x times its unit's inverse factor, as float32."""
    factors = spread(inverse, T, BLOCK_M, BLOCK_K)
    return round_to_odd(x * factors.to(tl.float64)) if x.dtype == tl.float64 else x * factors


@jit
def random_bits(seed, offset, first_m, first_k, K, FOURS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """RANDOM_BITS random bits per element, by its row-major index. FOURS: rows and blocks begin at multiples of 4, and
    the four words of one call of Philox go to four neighbours."""
    offs_m, offs_k = offsets(first_m, first_k, BLOCK_M, BLOCK_K)
    if FOURS:
        block = (offs_m * K + first_k) // 4 + tl.arange(0, BLOCK_K // 4)[None, :]
        stream = tl.zeros_like(block) + offset
        high = (block >> 32).to(tl.uint32)
        w0, w1, w2, w3 = tl.philox(
            seed, block.to(tl.uint32), high, stream.to(tl.uint32), (stream >> 32).to(tl.uint32)
        )  # fmt: skip
        # [..., i, j] of the joined words is word 2i + j.
        words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (BLOCK_M, BLOCK_K))
        bits = (words >> _cast.RANDOM_SHIFT).to(tl.int32)
    else:
        bits = _cast.rounding_bits(seed, offset, offs_m * K + offs_k)
    return bits


@jit
def save_codes(y, codes_ptr, table_ptr, first_m, first_k, M, K, stride_m, stride_k, seed, offset, F: tl.constexpr,
               STOCHASTIC: tl.constexpr, FOURS: tl.constexpr, BLOCK_M: tl.constexpr,
               BLOCK_K: tl.constexpr):  # fmt: skip
    """Writes the codes of a block of float32 y."""
    random = 0
    if STOCHASTIC:
        random = random_bits(seed, offset, first_m, first_k, K, FOURS, BLOCK_M, BLOCK_K)
    code = _cast.encode(y, random, table_ptr, F, STOCHASTIC).to(codes_ptr.dtype.element_ty)
    offs_m, offs_k = offsets(first_m, first_k, BLOCK_M, BLOCK_K)
    tl.store(codes_ptr + offs_m * stride_m + offs_k * stride_k, code, mask=(offs_m < M) & (offs_k < K))


@jit
def save_turned_codes(y, codes_ptr, table_ptr, first_m, first_k, M, K, seed, offset, F: tl.constexpr,
                      STOCHASTIC: tl.constexpr, FOURS: tl.constexpr, BLOCK_M: tl.constexpr,
                      BLOCK_K: tl.constexpr):  # fmt: skip
    """Writes the codes of a block of float32 y into the transposed array, contiguous [K, M]."""
    save_codes(
        tl.trans(y), codes_ptr, table_ptr, first_k, first_m, K, M, M, 1, seed, offset, F, STOCHASTIC, FOURS, BLOCK_K,
        BLOCK_M,
    )  # fmt: skip


@jit
def load_decoded(codes_ptr, scale_ptr, outer_ptr, table_ptr, first_m, first_k, M, K, stride_m, stride_k, stride_tm,
                 stride_tk, F: tl.constexpr, SCALE: tl.constexpr, SCALE_F: tl.constexpr, T: tl.constexpr,
                 BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """float32 block that codes and scales stand for, zero beyond the edges. SCALE: fp32 (factors), e8m0, or outer
    (codes of SCALE_F times the outer scale)."""
    offs_m, offs_k = offsets(first_m, first_k, BLOCK_M, BLOCK_K)
    mask = (offs_m < M) & (offs_k < K)
    codes = tl.load(codes_ptr + offs_m * stride_m + offs_k * stride_k, mask=mask, other=0)
    scale = load_units(scale_ptr, first_m, first_k, M, K, stride_tm, stride_tk, T, BLOCK_M, BLOCK_K)
    if SCALE == "e8m0":
        exponent = scale.to(tl.int32) - 127
        factor = tl.where(exponent == 128, float("nan"), _cast.power_of_two(tl.minimum(exponent, 127)))
    elif SCALE == "outer":
        factor = _cast.decode(scale, None, SCALE_F) * tl.load(outer_ptr)
    else:
        factor = scale
    value = _cast.decode(codes, table_ptr, F) * spread(factor, T, BLOCK_M, BLOCK_K)
    # Code 0 is not zero in every format.
    return tl.where(mask, value, 0.0)
