"""The Triton kernels of scaled_gemm: a loop over tiles of the output, and the sum of the parts of a split contraction.

Scales that are constant along K multiply the accumulator once, in the epilogue. Scales of K-blocks multiply the
partial sum of their block, which is then added to the float32 accumulator (DeepSeek-V3, arXiv 2412.19437 §3.3.2).

One program takes every `programs`-th tile, in an order that keeps GROUP_M rows of tiles together, whose operands then
stay in the L2 cache. With fewer tiles than multiprocessors the contraction is split: a tile's parts are written to a
workspace and `sum_kernel` adds them, always in the same order, so that results repeat to the bit.
"""

from __future__ import annotations

from narrowgauge.kernels import _cast
from narrowgauge.kernels._gemm_activation import activate
from narrowgauge.kernels._quantize_device import save_codes, scale_of, scaled, unit_entries, unit_maxima
from narrowgauge.kernels._triton import jit, tl


@jit
def _load_operand(ptr, table_ptr, start_r, start_k, rows, end, stride_r, stride_k, F: tl.constexpr,
                  OPERAND: tl.constexpr, TMA: tl.constexpr, TURNED: tl.constexpr, BLOCK_R: tl.constexpr,
                  BLOCK_K: tl.constexpr):  # fmt: skip
    """[R, K] codes, or their values where the tensor core does not take the codes; zero beyond the edges. TMA: `ptr` is
    a tensor descriptor, of the transposed matrix if TURNED."""
    offs_r = start_r + tl.arange(0, BLOCK_R)
    offs_k = start_k + tl.arange(0, BLOCK_K).to(tl.int64)
    mask = (offs_r < rows)[:, None] & (offs_k < end)[None, :]
    if TMA and TURNED:
        codes = ptr.load([start_k, start_r.to(tl.int32)]).T
    elif TMA:
        codes = ptr.load([start_r.to(tl.int32), start_k])
    else:
        codes = tl.load(ptr + offs_r[:, None] * stride_r + offs_k[None, :] * stride_k, mask=mask, other=0.0)
    if OPERAND == "fp8" or OPERAND == "int8":
        return codes
    else:
        values = _cast.decode(codes, table_ptr, F)
        if F.kind == "table":  # whose code 0 need not be zero
            values = tl.where(mask, values, 0.0)
        return values.to(tl.float16 if OPERAND == "fp16" else tl.bfloat16 if OPERAND == "bf16" else tl.float32)


@jit
def _factor(scale):
    """float32 of a stored scale: itself, or 2^(code - 127) of an E8M0 code."""
    if scale.dtype == tl.float32:
        return scale
    else:
        return _cast.e8m0_value(scale.to(tl.int32))


@jit
def _load_scale(ptr, start_r, start_k, rows, stride_r, stride_k, TILE_R: tl.constexpr, TILE_K: tl.constexpr,
                BLOCK_R: tl.constexpr):  # fmt: skip
    """Scales at column start_k of BLOCK_R rows: one per row, or a single one where a tile holds them all.
    A tile side of 0 stands for all rows or columns."""
    if TILE_K > 0:
        ptr += (start_k // TILE_K) * stride_k
    if TILE_R == 0:
        return _factor(tl.load(ptr))
    elif TILE_R % BLOCK_R == 0:
        return _factor(tl.load(ptr + (start_r // TILE_R) * stride_r, mask=start_r < rows, other=0))
    else:
        offs_r = start_r + tl.arange(0, BLOCK_R)
        return _factor(tl.load(ptr + (offs_r // TILE_R) * stride_r, mask=offs_r < rows, other=0))


@jit
def _column(scale):
    """[R, 1] of one scale per row; a single one as it is."""
    if len(scale.shape) > 0:
        return scale[:, None]
    else:
        return scale


@jit
def _row(scale):
    """[1, R] of one scale per row of b; a single one as it is."""
    if len(scale.shape) > 0:
        return scale[None, :]
    else:
        return scale


@jit
def _finish(acc, out_ptr, a_scale_ptr, b_scale_ptr, bias_ptr, q_scale_ptr, q_table_ptr, start_m, start_n, M, N,
            stride_om, stride_asm, stride_bsn, stride_qm, seed, offset, POINT: tl.constexpr, A_TILE_M: tl.constexpr,
            A_TILE_K: tl.constexpr, B_TILE_N: tl.constexpr, B_TILE_K: tl.constexpr, ACTIVATION: tl.constexpr,
            Q: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """Scales that are constant along K, bias, activation; writes the tile, or its codes and scales under Q, a
    `Requantisation`. POINT: factor of integer sums."""
    acc = acc.to(tl.float32)
    if POINT != 1.0:
        acc *= POINT
    if A_TILE_K == 0:
        acc *= _column(_load_scale(a_scale_ptr, start_m, 0, M, stride_asm, 0, A_TILE_M, 0, BLOCK_M))
    if B_TILE_K == 0:
        acc *= _row(_load_scale(b_scale_ptr, start_n, 0, N, stride_bsn, 0, B_TILE_N, 0, BLOCK_N))
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_n = start_n + tl.arange(0, BLOCK_N)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + offs_n, mask=offs_n < N, other=0.0).to(tl.float32)[None, :]
    acc = activate(acc, ACTIVATION)
    mask = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    if Q is None:
        tl.store(out_ptr + offs_m[:, None] * stride_om + offs_n[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)
    else:
        acc = tl.where(mask, acc, 0.0)
        amax = _cast.float_of(unit_maxima(acc, Q.tiling, BLOCK_M, BLOCK_N))
        stored, _, inverse = scale_of(amax, 1.0, Q.scale)
        entry, there = unit_entries(start_m, start_n, M, N, stride_qm, 1, Q.tiling, BLOCK_M, BLOCK_N)
        if Q.given:  # the scale is there already; a sum that is not finite spoils it
            there &= ~_cast.is_finite(amax)
        tl.store(q_scale_ptr + entry, stored.to(q_scale_ptr.dtype.element_ty), mask=there)
        save_codes(scaled(acc, inverse, Q.tiling, BLOCK_M, BLOCK_N), out_ptr, q_table_ptr, start_m, start_n, M, N,
                   stride_om, 1, seed, offset, Q.layout, Q.stochastic, Q.fours, BLOCK_M, BLOCK_N)  # fmt: skip


@jit
def _add_product(acc, a, b, a_scale, b_scale_ptr, start_n, start_k, N, stride_bsn, stride_bsk, B_TILE_N: tl.constexpr,
                 B_TILE_K: tl.constexpr, SCALED: tl.constexpr, PROMOTE: tl.constexpr, PRECISION: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """acc + a @ b.T, the product times the scales of its K-block where it has some (SCALED)."""
    SUM: tl.constexpr = tl.int32 if a.dtype == tl.int8 else tl.float32
    if SCALED:
        part = tl.dot(a, b.T, out_dtype=SUM, input_precision=PRECISION).to(tl.float32)
        scale = a_scale
        if B_TILE_K > 0:
            scale *= _row(
                _load_scale(b_scale_ptr, start_n, start_k, N, stride_bsn, stride_bsk, B_TILE_N, B_TILE_K, BLOCK_N)
            )
        return acc + part * scale
    elif PROMOTE == "wgmma":
        return tl.dot(a, b.T, acc, max_num_imprecise_acc=BLOCK_K)
    elif PROMOTE == "sum":
        # Without a limit of its own the product would be folded into the sum that it is to be kept out of.
        return acc + tl.dot(a, b.T, out_dtype=SUM, max_num_imprecise_acc=BLOCK_K)
    else:
        return tl.dot(a, b.T, acc, out_dtype=SUM, input_precision=PRECISION)


@jit
def _store_part(acc, out_ptr, part, start_m, start_n, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_n = start_n + tl.arange(0, BLOCK_N)
    row = part * (tl.zeros((), tl.int64) + M) + offs_m
    mask = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    tl.store(out_ptr + row[:, None] * N + offs_n[None, :], acc, mask=mask)


@jit
def gemm_kernel(a_ptr, b_ptr, out_ptr, a_scale_ptr, b_scale_ptr, bias_ptr, a_table_ptr, b_table_ptr, q_scale_ptr,
                q_table_ptr, M, N, K, stride_am, stride_ak, stride_bn, stride_bk, stride_om, stride_asm, stride_ask,
                stride_bsn, stride_bsk, stride_qm, seed, offset, A_F: tl.constexpr, B_F: tl.constexpr,
                OPERAND: tl.constexpr, A_TILE_M: tl.constexpr, A_TILE_K: tl.constexpr, B_TILE_N: tl.constexpr,
                B_TILE_K: tl.constexpr, SCALE_K: tl.constexpr, PROMOTE: tl.constexpr, PRECISION: tl.constexpr,
                POINT: tl.constexpr, ACTIVATION: tl.constexpr, Q: tl.constexpr, A_TURNED: tl.constexpr,
                B_TURNED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                HALVES: tl.constexpr, GROUP_M: tl.constexpr, SPLIT_K: tl.constexpr, PERSISTENT: tl.constexpr,
                TMA: tl.constexpr, SPECIALIZE: tl.constexpr):  # fmt: skip
    """Tiles of BLOCK_M x (HALVES · BLOCK_N) of the output, or with SPLIT_K > 1 their parts, out being [SPLIT_K, M, N].
    SCALE_K: columns over which both scales are constant, 0 for all."""
    SUM: tl.constexpr = tl.int32 if OPERAND == "int8" and SCALE_K == 0 else tl.float32
    STEPS: tl.constexpr = (SCALE_K + BLOCK_K - 1) // BLOCK_K if SCALE_K > 0 else 1
    PIECES: tl.constexpr = 2 if BLOCK_N == 256 else HALVES
    PIECE: tl.constexpr = BLOCK_N * HALVES // PIECES
    blocks_m, blocks_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N * HALVES)
    blocks_k = tl.cdiv(K, SCALE_K) * STEPS if SCALE_K > 0 else tl.cdiv(K, BLOCK_K)
    group_size = GROUP_M * blocks_n
    pid = tl.program_id(0)
    last = blocks_m * blocks_n if PERSISTENT else pid + 1
    for work in tl.range(pid, last, tl.num_programs(0), flatten=PERSISTENT, warp_specialize=SPECIALIZE):
        tile, first_k, end_k = work, 0, blocks_k
        if SPLIT_K > 1:
            part_blocks = tl.cdiv(blocks_k, SPLIT_K)
            tile = work // SPLIT_K
            first_k = (work % SPLIT_K) * part_blocks
            end_k = min(first_k + part_blocks, blocks_k)
        first_m = (tile // group_size) * GROUP_M
        group_m = min(blocks_m - first_m, GROUP_M)
        start_m = (first_m + (tile % group_size) % group_m).to(tl.int64) * BLOCK_M
        start_n = ((tile % group_size) // group_m).to(tl.int64) * (BLOCK_N * HALVES)
        acc = tl.zeros((BLOCK_M, BLOCK_N), SUM)
        if HALVES == 2:
            acc_2 = tl.zeros((BLOCK_M, BLOCK_N), SUM)
        for step in tl.range(first_k, end_k):
            start = step * BLOCK_K
            end = K
            if SCALE_K % BLOCK_K > 0:
                start = (step // STEPS) * SCALE_K + (step % STEPS) * BLOCK_K
                end = min(K, (step // STEPS + 1) * SCALE_K)
            a_scale = 1.0
            if A_TILE_K > 0:
                a_scale = _column(
                    _load_scale(a_scale_ptr, start_m, start, M, stride_asm, stride_ask, A_TILE_M, A_TILE_K, BLOCK_M)
                )
            a = _load_operand(a_ptr, a_table_ptr, start_m, start, M, end, stride_am, stride_ak, A_F, OPERAND, TMA,
                              A_TURNED, BLOCK_M, BLOCK_K)  # fmt: skip
            b = _load_operand(b_ptr, b_table_ptr, start_n, start, N, end, stride_bn, stride_bk, B_F, OPERAND, TMA,
                              B_TURNED, BLOCK_N, BLOCK_K)  # fmt: skip
            acc = _add_product(acc, a, b, a_scale, b_scale_ptr, start_n, start, N, stride_bsn, stride_bsk, B_TILE_N,
                               B_TILE_K, SCALE_K > 0, PROMOTE, PRECISION, BLOCK_N, BLOCK_K)  # fmt: skip
            if HALVES == 2:
                middle = start_n + BLOCK_N
                b = _load_operand(b_ptr, b_table_ptr, middle, start, N, end, stride_bn, stride_bk, B_F, OPERAND, TMA,
                                  B_TURNED, BLOCK_N, BLOCK_K)  # fmt: skip
                acc_2 = _add_product(acc_2, a, b, a_scale, b_scale_ptr, middle, start, N, stride_bsn, stride_bsk,
                                     B_TILE_N, B_TILE_K, SCALE_K > 0, PROMOTE, PRECISION, BLOCK_N,
                                     BLOCK_K)  # fmt: skip
        if HALVES == 1 and BLOCK_N == 256:
            # The epilogue of half of the columns at a time takes half of the registers.
            acc, acc_2 = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))
        for half in tl.static_range(PIECES):
            place = start_n + half * PIECE
            if half == 1:
                acc = acc_2
            if SPLIT_K > 1:
                _store_part(acc, out_ptr, work % SPLIT_K, start_m, place, M, N, BLOCK_M, PIECE)
            else:
                _finish(acc, out_ptr, a_scale_ptr, b_scale_ptr, bias_ptr, q_scale_ptr, q_table_ptr, start_m, place, M,
                        N, stride_om, stride_asm, stride_bsn, stride_qm, seed, offset, POINT, A_TILE_M, A_TILE_K,
                        B_TILE_N, B_TILE_K, ACTIVATION, Q, BLOCK_M, PIECE)  # fmt: skip


@jit
def sum_kernel(parts_ptr, out_ptr, a_scale_ptr, b_scale_ptr, bias_ptr, q_scale_ptr, q_table_ptr, M, N, stride_om,
               stride_asm, stride_bsn, stride_qm, seed, offset, POINT: tl.constexpr, A_TILE_M: tl.constexpr,
               A_TILE_K: tl.constexpr, B_TILE_N: tl.constexpr, B_TILE_K: tl.constexpr, ACTIVATION: tl.constexpr,
               Q: tl.constexpr, SPLIT_K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """The epilogue of the sum over SPLIT_K of parts [SPLIT_K, M, N], from the first to the last."""
    blocks_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    start_m = (pid // blocks_n).to(tl.int64) * BLOCK_M
    start_n = (pid % blocks_n).to(tl.int64) * BLOCK_N
    offs_m = start_m + tl.arange(0, BLOCK_M)
    offs_n = start_n + tl.arange(0, BLOCK_N)
    mask = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    places = parts_ptr + offs_m[:, None] * N + offs_n[None, :]
    size = tl.zeros((), tl.int64) + M
    size *= N
    acc = tl.load(places, mask=mask, other=0)
    for part in range(1, SPLIT_K):
        acc += tl.load(places + part * size, mask=mask, other=0)
    _finish(acc, out_ptr, a_scale_ptr, b_scale_ptr, bias_ptr, q_scale_ptr, q_table_ptr, start_m, start_n, M, N,
            stride_om, stride_asm, stride_bsn, stride_qm, seed, offset, POINT, A_TILE_M, A_TILE_K, B_TILE_N, B_TILE_K,
            ACTIVATION, Q, BLOCK_M, BLOCK_N)  # fmt: skip
