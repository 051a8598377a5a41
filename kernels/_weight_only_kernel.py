"""Triton kernels of weight_only_gemm.

`rows_kernel` for few rows of x: products and sums in plain arithmetic. Every thread reads 16 bytes of codes at a time,
decodes them and keeps its sums to itself; threads meet only after the last code.
`dot_kernel` for more: the weight is the tensor core's first operand, which may come from registers, and its rows fill
the instruction however few rows x has.

Where the sum over K is split, each part writes its own sums, and `join_kernel` adds them in the order of K.
"""

from __future__ import annotations

from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import constant, jit, tl

ROUND_MAGIC = constant(8388608.0)  # 2^23: the low bits of a float32 from there on are an integer
ROUND_MAGIC_BITS = constant(0x4B000000)


@jit
def _decode(code, table_ptr, F: tl.constexpr, BITS: tl.constexpr):
    """float32 values of codes of BITS bits, whatever stands above these. Integers by one logical operation and one
    sum, without a conversion, which GPUs do at a quarter of the rate."""
    if F.kind == "int":
        sign: tl.constexpr = (1 << (BITS - 1)) if F.signed_codes else 0
        mask: tl.constexpr = (1 << BITS) - 1
        value = _cast.float_of(((code.to(tl.int32) & mask) ^ sign) | ROUND_MAGIC_BITS) - (ROUND_MAGIC + sign)
        if F.fraction_bits > 0:
            value *= 2.0 ** (-F.fraction_bits)
        return value
    elif F.kind == "table" and BITS == 4:
        # A look-up among the registers of a warp, or in shared memory; reads of the table would be taken for data.
        values = tl.load(table_ptr + _cast.AT_VALUES + tl.arange(0, 16))
        place = code.to(tl.int32) & 15
        return _cast.float_of(tl.gather(values, place.reshape(place.numel), 0)).reshape(place.shape)
    else:
        return _cast.decode(code.to(tl.int32) & ((1 << BITS) - 1), table_ptr, F)


@jit
def _load_codes(ptr, rows, offs, mask, stride_k, BITS: tl.constexpr):
    """The codes number `offs` of rows that begin at ptr + rows: one a byte, or strings of BITS bits."""
    if BITS == 8:
        return tl.load(ptr + rows + offs * stride_k, mask=mask, other=0)
    else:
        place = offs * BITS
        word = tl.load(ptr + rows + (place >> 3) * stride_k, mask=mask, other=0).to(tl.int32)
        shift = (place & 7).to(tl.int32)
        if 8 % BITS > 0:
            more = mask & (shift + BITS > 8)
            word |= tl.load(ptr + rows + ((place >> 3) + 1) * stride_k, mask=more, other=0).to(tl.int32) << 8
        return word >> shift


@jit
def _factor(scale, F: tl.constexpr, SCALE: tl.constexpr):
    """float32 of stored scales. SCALE: fp32, e8m0 (2^(code - 127)) or outer (codes of F)."""
    if SCALE == "e8m0":
        exponent = scale.to(tl.int32) - 127
        return tl.where(exponent == 128, float("nan"), _cast.power_of_two(tl.minimum(exponent, 127)))
    elif SCALE == "outer":
        return _cast.decode(scale, None, F)
    else:
        return scale


@jit
def _load_rows(ptr, offs_n, column, rows, stride_n, TILE_N: tl.constexpr):
    """[N, 1] stored numbers of rows offs_n [N] in a column of tiles. Loaded as a vector: of a matrix of one column,
    threads would load a number for every column of the product that they hold."""
    place = column + tl.zeros_like(offs_n)
    if TILE_N > 0:
        place += (offs_n // TILE_N) * stride_n
    return tl.load(ptr + place, mask=offs_n < rows, other=0)[:, None]


@jit
def _load_grid(ptr, offs_n, offs_k, rows, cols, stride_n, TILE_N: tl.constexpr, TILE_K: tl.constexpr):
    """[N, R] stored numbers of the tiles at rows offs_n [N] and columns offs_k [R]; TILE_K 0: [N, 1].
    A tile side of 0 stands for all rows or columns."""
    if TILE_K == 0:
        return _load_rows(ptr, offs_n, 0, rows, stride_n, TILE_N)
    else:
        place = (offs_k // TILE_K)[None, :] + tl.zeros_like(offs_n)[:, None]
        if TILE_N > 0:
            place += ((offs_n // TILE_N) * stride_n)[:, None]
        return tl.load(ptr + place, mask=(offs_n < rows)[:, None] & (offs_k < cols)[None, :], other=0)


@jit
def _spread(grid, RUN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """[N, K / RUN] as [N, K], each number RUN times; [N, 1] as it is."""
    if grid.shape[1] == 1 or RUN == 1:
        return grid
    else:
        wide = tl.broadcast_to(grid[:, :, None], (BLOCK_N, BLOCK_K // RUN, RUN))
        return wide.reshape(BLOCK_N, BLOCK_K)


@jit
def _run_starts(start, RUN: tl.constexpr, BLOCK_K: tl.constexpr):
    """[K / RUN] columns at which runs begin."""
    return start + tl.arange(0, BLOCK_K // RUN) * RUN


@jit
def rows_kernel(x_ptr, codes_ptr, scale_ptr, outer_ptr, zero_ptr, bias_ptr, table_ptr, out_ptr, T, N, K, WIDTH,
                 stride_xt, stride_xk, stride_cn, stride_ck, stride_sn, steps, F: tl.constexpr, SCALE_F: tl.constexpr,
                 SCALE: tl.constexpr, WHERE: tl.constexpr, BITS: tl.constexpr, NIBBLES: tl.constexpr,
                 TILE_N: tl.constexpr, TILE_K: tl.constexpr, RUN: tl.constexpr, WIDE: tl.constexpr, SPLIT: tl.constexpr,
                 BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                 STAGES: tl.constexpr):  # fmt: skip
    """Sums of BLOCK_T rows of x with BLOCK_N rows of the weight over `steps` blocks of BLOCK_K codes."""
    pid, part = tl.program_id(0), tl.program_id(1)
    blocks_t = tl.cdiv(T, BLOCK_T)
    offs_t = (pid % blocks_t).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    offs_n = (pid // blocks_t).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    # Two codes of 4 bits are read as a byte.
    PER: tl.constexpr = 2 if NIBBLES else 1
    BYTES: tl.constexpr = BLOCK_K // PER
    acc = tl.zeros((BLOCK_T, BLOCK_N, BYTES), WIDE)
    first = part * steps
    for step in tl.range(first, min(first + steps, tl.cdiv(K, BLOCK_K)), num_stages=STAGES):
        start = step * BLOCK_K
        offs_k = start + tl.arange(0, BLOCK_K)
        x_mask = (offs_t < T)[:, None] & (offs_k < K)[None, :]
        x = tl.load(x_ptr + offs_t[:, None] * stride_xt + offs_k[None, :] * stride_xk, mask=x_mask, other=0.0).to(WIDE)
        offs_b = step * BYTES + tl.arange(0, BYTES)
        mask = (offs_n < N)[:, None] & (offs_b < (WIDTH if NIBBLES else K))[None, :]
        codes = _load_codes(
            codes_ptr, (offs_n * stride_cn)[:, None], offs_b[None, :], mask, stride_ck, 8 if NIBBLES else BITS
        )
        at = offs_b * PER if RUN == 1 else _run_starts(start, RUN * PER, BLOCK_K)
        low = _decode(codes, table_ptr, F, 4 if NIBBLES else BITS)
        if NIBBLES:
            high = _decode(codes.to(tl.int32) >> 4, table_ptr, F, 4)
        if zero_ptr is not None:
            zero = _spread(_load_grid(zero_ptr, offs_n, at, N, K, stride_sn, TILE_N, TILE_K), RUN, BLOCK_N, BYTES)
            low -= zero
            if NIBBLES:
                high -= zero
        if WHERE == "values":
            scale = _factor(_load_grid(scale_ptr, offs_n, at, N, K, stride_sn, TILE_N, TILE_K), SCALE_F, SCALE)
            scale = _spread(scale, RUN, BLOCK_N, BYTES).to(WIDE)[None, :, :]
        if NIBBLES:
            even, odd = x.reshape(BLOCK_T, BYTES, 2).split()
            product = low.to(WIDE)[None, :, :] * even[:, None, :] + high.to(WIDE)[None, :, :] * odd[:, None, :]
        else:
            product = low.to(WIDE)[None, :, :] * x[:, None, :]
        acc += product * scale if WHERE == "values" else product
    total = tl.sum(acc, 2)
    if WHERE == "sums":
        total *= _factor(_load_rows(scale_ptr, offs_n, 0, N, stride_sn, TILE_N), SCALE_F, SCALE).reshape(1, BLOCK_N)
    if outer_ptr is not None:
        total *= tl.load(outer_ptr)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + offs_n, mask=offs_n < N, other=0.0).to(WIDE)[None, :]
    if SPLIT:
        out_ptr += part.to(tl.int64) * T * N
    mask_out = (offs_t < T)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + offs_t[:, None] * N + offs_n[None, :], total.to(out_ptr.dtype.element_ty), mask=mask_out)


@jit
def dot_kernel(x_ptr, codes_ptr, scale_ptr, outer_ptr, zero_ptr, bias_ptr, table_ptr, out_ptr, T, N, K, WIDTH,
               stride_xt, stride_xk, stride_cn, stride_ck, stride_sn, steps, F: tl.constexpr, SCALE_F: tl.constexpr,
                SCALE: tl.constexpr, WHERE: tl.constexpr, BITS: tl.constexpr, NIBBLES: tl.constexpr,
                TILE_N: tl.constexpr, TILE_K: tl.constexpr, RUN: tl.constexpr, OPERAND: tl.constexpr,
                PRECISION: tl.constexpr, SPLIT: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
                BLOCK_K: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """BLOCK_N rows of the weight times BLOCK_T rows of x, over `steps` blocks of at most BLOCK_K codes. Where scales of
    runs multiply sums, no block goes beyond a run."""
    pid, part = tl.program_id(0), tl.program_id(1)
    blocks_t = tl.cdiv(T, BLOCK_T)
    offs_t = (pid % blocks_t).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    offs_n = (pid // blocks_t).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    STEPS: tl.constexpr = (TILE_K + BLOCK_K - 1) // BLOCK_K if WHERE == "runs" else 1
    RAGGED: tl.constexpr = WHERE == "runs" and TILE_K % BLOCK_K > 0
    blocks = tl.cdiv(K, TILE_K) * STEPS if RAGGED else tl.cdiv(K, BLOCK_K)
    acc = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    first = part * steps
    for step in tl.range(first, min(first + steps, blocks), num_stages=STAGES):
        start = step * BLOCK_K
        end = K
        start_b = step * (BLOCK_K // 2)  # what is divided by 2 would no longer be known as a multiple of 16
        end_b = WIDTH
        if RAGGED:
            start = (step // STEPS) * TILE_K + (step % STEPS) * BLOCK_K
            end = min(K, (step // STEPS + 1) * TILE_K)
            start_b = start // 2
            end_b = (end + 1) // 2
        offs_k = start + tl.arange(0, BLOCK_K)
        x_mask = (offs_t < T)[None, :] & (offs_k < end)[:, None]
        x = tl.load(x_ptr + offs_t[None, :] * stride_xt + offs_k[:, None] * stride_xk, mask=x_mask, other=0.0)
        if NIBBLES:
            offs_b = (start_b + tl.arange(0, BLOCK_K // 2))[None, :]
            mask = (offs_n < N)[:, None] & (offs_b < end_b)
            codes = tl.load(codes_ptr + (offs_n * stride_cn)[:, None] + offs_b * stride_ck, mask=mask, other=0)
            low, high = _decode(codes, table_ptr, F, 4), _decode(codes.to(tl.int32) >> 4, table_ptr, F, 4)
            w = tl.join(low, high).reshape(BLOCK_N, BLOCK_K)
        else:
            mask = (offs_n < N)[:, None] & (offs_k < end)[None, :]
            codes = _load_codes(codes_ptr, (offs_n * stride_cn)[:, None], offs_k[None, :], mask, stride_ck, BITS)
            w = _decode(codes, table_ptr, F, BITS)
        if WHERE == "runs":
            column = start // TILE_K
            if zero_ptr is not None:
                w -= _load_rows(zero_ptr, offs_n, column, N, stride_sn, TILE_N)
            scale = _factor(_load_rows(scale_ptr, offs_n, column, N, stride_sn, TILE_N), SCALE_F, SCALE)
        else:
            at = offs_k if RUN == 1 else _run_starts(start, RUN, BLOCK_K)
            if zero_ptr is not None:
                zero = _load_grid(zero_ptr, offs_n, at, N, K, stride_sn, TILE_N, TILE_K)
                w -= _spread(zero, RUN, BLOCK_N, BLOCK_K)
            if WHERE == "values":
                scale = _factor(_load_grid(scale_ptr, offs_n, at, N, K, stride_sn, TILE_N, TILE_K), SCALE_F, SCALE)
                w *= _spread(scale, RUN, BLOCK_N, BLOCK_K)
        TYPE: tl.constexpr = tl.float16 if OPERAND == "fp16" else tl.bfloat16 if OPERAND == "bf16" else tl.float32
        if WHERE == "runs":
            acc += tl.dot(w.to(TYPE), x.to(TYPE), input_precision=PRECISION) * scale
        else:
            acc = tl.dot(w.to(TYPE), x.to(TYPE), acc, input_precision=PRECISION)
    if WHERE == "sums":
        acc *= _factor(_load_rows(scale_ptr, offs_n, 0, N, stride_sn, TILE_N), SCALE_F, SCALE)
    if outer_ptr is not None:
        acc *= tl.load(outer_ptr)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_n, mask=offs_n < N, other=0.0).to(tl.float32)[:, None]
    if SPLIT:
        out_ptr += part.to(tl.int64) * T * N
    mask_out = (offs_n < N)[:, None] & (offs_t < T)[None, :]
    tl.store(out_ptr + offs_t[None, :] * N + offs_n[:, None], acc.to(out_ptr.dtype.element_ty), mask=mask_out)


@jit
def join_kernel(parts_ptr, bias_ptr, out_ptr, count, N, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """out = Σ of PARTS tensors of `count` elements, in their order, + bias of the column."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < count
    total = tl.load(parts_ptr + offs, mask=mask, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(parts_ptr + part * count.to(tl.int64) + offs, mask=mask, other=0.0)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + offs % N, mask=mask, other=0.0).to(total.dtype)
    tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=mask)
