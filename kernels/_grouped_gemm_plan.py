"""How grouped products run on a target: the launches to choose from, and a model that ranks them. Pure functions.

What the matrix unit is fed with, and how long its partial sums may be, is `operand_type` and PROMOTE_EVERY of
`kernels/_gemm_plan.py`. Groups are taken to be equally long: how long they are, only the device knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from narrowgauge.formats import Scheme
from narrowgauge.kernels._gemm_plan import (
    INTERPRETER,
    MIN_BLOCK_K,
    PROMOTE_EVERY,
    PROMOTED,
    operand_type,
    scale_columns,
)
from narrowgauge.kernels._gpu_facts import gpu_of

CACHE_SPEEDUP = 3.0
"""How much faster than memory the second-level cache feeds the multiprocessors, about."""
DECODE_STEPS = 12.0
"""Instructions that decoding takes for a value, about."""
REGISTERS = 224.0
"""That a thread may need by `_registers` before the compiler is taken to spill."""
SPILLED = 3.0
"""How much slower that makes a launch, about."""
_BYTES = {"fp8": 1, "int8": 1, "fp16": 2, "bf16": 2, "fp32": 4}


class Work(NamedTuple):
    """What a call multiplies: groups of rows x cols x depth each, about. operand: as `Plan.operand`. columns: over
    which both scales are constant along the contraction, 0 for all. per_row: whether every row of b has a scale of its
    own in each block of them. turned: whether an operand is a transposed view, which goes through registers."""

    groups: int
    rows: int
    cols: int
    depth: int
    operand: str
    columns: int
    per_row: bool
    turned: bool


class Config(NamedTuple):
    """A launch: the tile of a program, warps, pipeline stages."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


def work_of(groups: int, rows: int, cols: int, depth: int, a: Scheme, b: Scheme, turned: bool, target: str) -> Work:
    """The work of `groups` products, `rows` in all of them together."""
    columns = scale_columns(a.factor_tile, b.factor_tile)
    height, width = b.factor_tile
    per_row = width is not None and height is not None and height % 128 > 0
    operand = operand_type(a.element, b.element, target)
    return Work(groups, -(-rows // max(groups, 1)), cols, depth, operand, columns, per_row, turned)


def promotes(work: Work, target: str) -> str:
    """How partial sums are promoted (see `kernels/_gemm_plan.py`); "" where they need not be, or K-blocks see to it."""
    return PROMOTED.get(target, "") if work.operand == "fp8" and work.columns == 0 else ""


def candidates(work: Work, target: str) -> Iterator[Config]:
    """Launches to choose from."""
    if target == INTERPRETER:
        yield from (Config(side, side, _depth(128, work), 4, 1) for side in (128, 32))
        return
    lanes = 64 if target.startswith("gfx") else 32
    stages = (2,) if target.startswith("gfx") else (4, 3, 2)
    tiles = (
        (128, 256, 8),
        (128, 128, 8),
        (128, 128, 4),
        (128, 64, 8),
        (128, 64, 4),
        (64, 128, 4),
        (64, 64, 4),
        (32, 64, 4),
    )
    depths: tuple[int, ...] = (PROMOTE_EVERY,) if promotes(work, target) == "wgmma" else (128, 64, 32)
    if target.startswith("sm_10") and _BYTES[work.operand] > 1 and not work.columns:
        depths = (128, 64)  # narrower tiles spill
    for block_m, block_n, warps in tiles if work.operand == "fp8" else tiles[1:]:
        for block_k in depths:
            # Threads read 16 bytes at a time.
            if block_k == _depth(block_k, work) and min(block_m, block_n) * block_k >= 16 * warps * lanes:
                yield from (Config(block_m, block_n, block_k, warps, n) for n in stages)


def _depth(block_k: int, work: Work) -> int:
    """Columns of a tile, no more than share their scales."""
    if not work.columns:
        return block_k
    return max(MIN_BLOCK_K, min(block_k, 1 << (work.columns - 1).bit_length()))


def seconds(config: Config, work: Work, target: str) -> float:
    """The model: a program multiplies, decodes, scales and reads at its share of the peaks; waves of programs follow
    each other. inf where shared memory does not suffice."""
    gpu = gpu_of(target)
    if _shared(config, work) > gpu.shared:
        return float("inf")
    rates = {"fp8": gpu.fp8, "int8": gpu.int8, "fp16": gpu.fp16, "bf16": gpu.fp16, "fp32": gpu.fp16 / 6}
    steps = -(-work.depth // config.block_k) * config.block_k
    # wgmma and tcgen05 take no fewer rows than these.
    least = 128 if target.startswith("sm_10") else 64 if target.startswith("sm_9") else 16
    area = max(config.block_m, least) * config.block_n
    time = 2.0 * area * steps / (rates[work.operand] / gpu.units)
    vector = gpu.fp32 / 2 / gpu.units
    if _BYTES[work.operand] > 1:
        time += DECODE_STEPS * (config.block_m + config.block_n) * steps / vector
    if work.columns:
        time += 2.0 * config.block_m * config.block_n * (steps / config.block_k) / vector
    read = float(config.block_m + config.block_n) * steps
    time = max(time, read / (gpu.bandwidth * CACHE_SPEEDUP / gpu.units)) * (1.0 + 0.25 / config.num_stages)
    # A lone wave of CDNA has twice the registers.
    limit = REGISTERS * (2 if target.startswith("gfx") and config.num_warps == 4 else 1)
    if _registers(config, work, target) > limit:
        time *= SPILLED
    tiles = work.groups * -(-work.rows // config.block_m) * -(-work.cols // config.block_n)
    memory = work.groups * (work.rows + work.cols) * work.depth / gpu.bandwidth
    return float(-(-tiles // gpu.units) * time + memory)


def _shared(config: Config, work: Work) -> int:
    """Bytes of the tiles in flight, and of one decoded tile."""
    tile = (config.block_m + config.block_n) * config.block_k
    width = _BYTES[work.operand]
    return tile * (config.num_stages + (width if width > 1 else 0))


def _registers(config: Config, work: Work, target: str) -> float:
    """Registers of a thread, about: sums, partial sums beside them, operands that pass through registers."""
    threads = config.num_warps * (64 if target.startswith("gfx") else 32)
    sums = config.block_m * config.block_n / threads
    passing = (config.block_m + config.block_n) * config.block_k / threads
    partial = work.columns > 0 or promotes(work, target) != ""
    needed = 48.0 + sums * (2.0 if partial else 1.0) + (48.0 if work.columns and work.per_row else 0.0)
    if _BYTES[work.operand] > 1:
        return needed + (60.0 if work.turned else 4.0) + passing * (4.0 if work.operand == "fp32" else 1.75)
    in_registers = not target.startswith(("sm_9", "sm_10")) or (work.operand == "int8" and target != "sm_90")
    if work.operand == "int8" and work.turned and target.startswith("sm_10"):
        needed += 64.0  # as built: addresses of every byte that is turned
    return needed + passing / ((1.0 if work.turned else 2.0) if in_registers else 8.0)


def key_of(work: Work, name: str) -> str:
    """The class of shapes that share a choice: sizes up to the next power of two."""
    sizes = "x".join(str(1 << max(size - 1, 0).bit_length()) for size in work[:4])
    marks = (" rows" if work.per_row else "") + (" turned" if work.turned else "")
    return f"{name} {work.operand} {work.columns}{marks} {sizes}"
