"""How long a launch of weight_only_gemm takes: a pure model, with the figures of `kernels/_gpu_facts.py`,

    start + max(m, a) + min(m, a) / 5,    m = bytes / bandwidth,
    a = waves · (instructions of a program / a unit's rate + products / its tensor cores' rate)

Few rows are bound by the codes that are read and by decoding them.
"""

from __future__ import annotations

from narrowgauge.kernels._gpu_facts import gpu_of
from narrowgauge.kernels._weight_only_plan import Launch, Shape, Way, lanes

_START = 3e-6
"""Seconds of a launch."""
_REGISTERS = 168
"""Of a thread, that tiles may take."""


def seconds(shape: Shape, way: Way, how: Launch, target: str) -> float:
    """The model's time of one launch, inf where it does not fit the target."""
    gpu, threads = gpu_of(target), lanes(target) * how.num_warps
    registers, shared = _needs(way, how, threads)
    if registers > _REGISTERS or shared > gpu.shared:
        return float("inf")
    tiles = -(-shape.t // how.block_t) * -(-shape.n // how.block_n) * how.splits
    waves = -(-tiles // gpu.units)
    codes = how.block_n * how.steps(shape.k, way) * how.block_k
    rate = gpu.fp32 / gpu.units / 2  # instructions of single threads in a second
    work = way.decoding + 1.0
    if (
        how.kernel == "rows"
    ):  # a product for every row of x, the scale, and x itself, once for a thread's rows of weight
        work += how.block_t * (1.5 + 16 * threads * way.per_byte / (how.block_n * how.block_k)) - 1.0
    arithmetic = waves * codes * work / rate
    if how.kernel == "dot":
        peak = gpu.fp16 if way.operand in ("fp16", "bf16") else gpu.fp16 / 6
        arithmetic += waves * 2.0 * codes * how.block_t / (0.7 * peak / gpu.units)
        if way.where("dot") == "runs":
            arithmetic += waves * how.block_n * how.block_t * how.steps(shape.k, way) / rate
    strips = -(-shape.t // how.block_t)
    weight = shape.n * shape.k * way.bits / 8 * (1.0 + 0.3 * (strips - 1))
    sums = 8.0 * how.splits * shape.t * shape.n if how.splits > 1 else 0.0
    memory = (weight + 2.0 * shape.t * (shape.k + shape.n) + sums) / (0.85 * gpu.bandwidth)
    # Too few programs do not keep the memory busy.
    memory *= max(1.0, 0.75 * gpu.units / tiles)
    # The two overlap, but not wholly.
    return max(memory, arithmetic) + 0.2 * min(memory, arithmetic) + _START * (1.0 if how.splits == 1 else 1.7)


def _needs(way: Way, how: Launch, threads: int) -> tuple[int, int]:
    """(registers of a thread, bytes of shared memory), about."""
    codes = how.block_n * how.block_k
    if how.kernel == "rows":
        reads = -(-codes // way.per_byte // threads)
        wide = 2 if way.operand == "fp64" else 1
        held = way.decoding / 4 + way.per_byte * (1 + how.block_t * wide / how.block_n) + how.block_t * wide
        tiles = how.num_stages * (codes * way.bits // 8 + how.block_k * how.block_t * 4 * wide)
        return int(reads * held), tiles
    size = 4 if way.operand == "fp32" else 2
    sums = how.block_n * how.block_t // threads * (2 if way.where("dot") == "runs" else 1)
    tiles = how.num_stages * (how.block_k * how.block_t * size + codes * way.bits // 8)
    return sums + 2 * codes * size // 4 // threads, tiles + codes * size
