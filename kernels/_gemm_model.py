"""What a launch of scaled_gemm takes, by a model: seconds from products, traffic and the waves over multiprocessors.

    step     = max(products / peak, traffic from the L2 cache / its bandwidth) + decoding + turning + scales' sums
    seconds  = max(most tiles of one unit · (steps · step + edge), bytes / bandwidth) + launches (+ workspace)

The model ranks candidates (`kernels/tuning.py`); its constants are orders of magnitude, not measurements.
"""

from __future__ import annotations

from narrowgauge.kernels._gemm_config import Config, Facts, Product, blocks_along_k, facts_of
from narrowgauge.kernels._gpu_facts import gpu_of

BARRIERS = 256
"""Bytes of shared memory for the signals between copies and products."""
LAUNCH = 3e-6
NEXT_LAUNCH = 1.5e-6
"""A kernel that follows another on the same stream."""
EDGE = 1.5e-6
"""Filling and draining the pipeline of one tile, and writing it, where nothing else runs beside it."""
HIDDEN = 0.3
"""The share of EDGE that is left where the next tile's copies run at the same time (persistent), with separate tasks
for warps half of that."""
DECODE = 10
"""Operations that decode one code."""
TURN = 32 * 1.5e9
"""Bytes a second that one unit turns around in shared memory, one by one."""
CACHE = 64e9
"""Bytes a second that one unit reads from the L2 cache, at least."""
REGISTERS = 65536
"""32-bit registers of one multiprocessor."""


def shared_bytes(config: Config, product: Product, target: str) -> int:
    """Shared memory of one program, no less than what Triton takes."""
    facts = facts_of(product.a, product.b, target)
    rows = config.block_m + config.block_n * config.halves
    total = BARRIERS + config.num_stages * rows * config.block_k
    if facts.decoded and not facts.in_registers:
        total += rows * config.block_k * (4 if facts.plan.operand == "fp32" else 2)
    if product.turned and target == "sm_90":
        total += rows * config.block_k
    staged = config.block_m * min(config.block_n, 128) * (4 if config.split_k > 1 else product.out)
    return total + staged if config.persistent else max(total, staged)


def residents(config: Config, product: Product, target: str) -> int:
    """Programs that run on one unit at a time, 0 where one does not fit."""
    gpu, facts = gpu_of(target), facts_of(product.a, product.b, target)
    shared = shared_bytes(config, product, target)
    if shared > gpu.shared:
        return 0
    threads = config.num_warps * 32
    sums = config.block_m * config.block_n * (config.halves + (facts.columns > 0 or facts.plan.promote != "")) / threads
    return max(
        1, min(gpu.per_unit // max(shared, 1), gpu.threads // threads, int(REGISTERS // (threads * (sums + 64))))
    )


def seconds(config: Config, product: Product, target: str) -> float:
    """The model's time of a launch; inf where it cannot run."""
    gpu, facts = gpu_of(target), facts_of(product.a, product.b, target)
    fit = residents(config, product, target)
    if not fit:
        return float("inf")
    tiles = -(-product.m // config.block_m) * -(-product.n // (config.block_n * config.halves))
    steps = -(-blocks_along_k(product, facts, config.block_k) // config.split_k)
    edge = EDGE / min(fit, 2)
    if config.persistent:
        edge *= HIDDEN * (0.5 if config.specialize else 1.0)
    each = steps * _step(config, product, facts, target) + edge
    busy = -(-tiles * config.split_k // gpu.units) * each
    m, n, k = product.m, product.n, product.k
    drawn = min(1.0, 2.0 * tiles * config.split_k / gpu.units)  # by half of the units, all of the bandwidth
    traffic = (m * k + n * k + m * n * product.out) / (gpu.bandwidth * drawn)
    total = max(busy, traffic) + LAUNCH
    if config.split_k > 1:
        total += NEXT_LAUNCH + 2 * config.split_k * m * n * 4 / gpu.bandwidth
    return total


def _step(config: Config, product: Product, facts: Facts, target: str) -> float:
    """Seconds of one block along K of one tile, alone on its unit."""
    gpu = gpu_of(target)
    width = config.block_n * config.halves
    wide = gpu.fp32 if target.startswith("gfx") else gpu.fp16 / 6
    peak = {"fp8": gpu.fp8, "int8": gpu.int8, "fp32": wide}.get(facts.plan.operand, gpu.fp16)
    products = 2.0 * config.block_m * width * config.block_k * gpu.units / peak
    codes = (config.block_m + width) * config.block_k
    cache = max(CACHE, 2.5 * gpu.bandwidth / gpu.units)
    plain = gpu.fp32 / gpu.units
    extra = DECODE * codes / plain if facts.decoded else 0.0
    if facts.columns or facts.plan.promote:
        extra += 2.0 * config.block_m * width / plain
    if not facts.decoded and (facts.in_registers or target == "sm_90"):
        turned = config.block_m * ("a" in product.turned) + width * ("b" in product.turned)
        extra += turned * config.block_k / TURN
    if not config.tma:
        extra += 0.1 * products
    return max(products, codes / cache) + extra
