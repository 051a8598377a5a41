"""How a product of block-scaled operands runs on a target: its instruction, and the launch. Pure functions.

Three ways (`Config.how`):
  scaled    the matrix unit multiplies codes and scales itself (`tl.dot_scaled`): tcgen05.mma.kind::mxf8f6f4, ::mxf4 and
            ::mxf4nvf4 on sm_100, mma.sync with the same kinds on sm_120, v_mfma_scale_f32 on gfx950 (OCP MX alone)
  decoded   codes are decoded in registers, their scale included, to bfloat16, which holds every product exactly: at
            most 4 significant bits of an MX element times a power of two, 2 · 4 of an NVFP4 element and its scale. In
            Triton's interpreter, which cannot multiply bfloat16, to float32
  expanded  the same, once, to memory, and a product of bfloat16 matrices: for many rows, whose programs would each
            decode the same codes anew
What `dot_scaled` has no name for is written anew as e4m3fn, which holds every value of e2m3fn, e3m2fn and e2m1fn: the
6-bit formats everywhere, and on sm_120 an e2m1fn operand beside one of 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from narrowgauge.formats import BlockFormat, Scheme
from narrowgauge.kernels._gemm_plan import INTERPRETER
from narrowgauge.kernels._gpu_facts import gpu_of

SCALED_TARGETS = ("sm_100", "sm_103", "sm_120", "sm_121", "gfx950")
_NAMES = {"e4m3fn": "e4m3", "e5m2": "e5m2", "e2m1fn": "e2m1", "e2m3fn": "e4m3", "e3m2fn": "e4m3"}
ELEMENTS = tuple(_NAMES)
"""Element formats of the operands."""
DECODE_STEPS = 16.0
"""Instructions that decoding takes for a value, about."""
REGISTERS = 224.0
"""That a thread may need by `_registers` before the compiler is taken to spill."""
SPILLED = 3.0
"""How much slower that makes a launch, about."""
LAUNCH = 4e-6
"""Seconds that one more kernel costs, about."""
CACHE_SPEEDUP = 3.0
"""How much faster than memory the second-level cache feeds the multiprocessors, about."""


class Path(NamedTuple):
    """native: whether the matrix unit takes the scales. a, b: `dot_scaled`'s names of what it is fed with then."""

    native: bool
    a: str
    b: str


class Config(NamedTuple):
    """A launch: how it multiplies, the tile of a program, warps, pipeline stages."""

    how: str
    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


def block_of(spec: Scheme) -> int:
    """Elements that share a scale."""
    assert isinstance(spec.format, BlockFormat)
    size = spec.format.block_size
    assert size is not None
    return size


def path_of(a: Scheme, b: Scheme, target: str) -> Path:
    """How `target` multiplies operands of two accepted schemes."""
    names = _NAMES[a.element.name], _NAMES[b.element.name]
    # CDNA4's scales are powers of two.
    if target not in SCALED_TARGETS or (target == "gfx950" and block_of(a) != 32):
        return Path(False, *names)
    if target.startswith("sm_12") and names[0] != names[1]:
        names = ("e4m3" if names[0] == "e2m1" else names[0], "e4m3" if names[1] == "e2m1" else names[1])
    return Path(True, *names)


def candidates(path: Path, target: str) -> Iterator[Config]:
    """Launches to choose from."""
    amd = target.startswith("gfx")
    if target == INTERPRETER:
        yield from (Config(how, side, side, 128, 4, 1) for how in ("decoded", "expanded") for side in (128, 64))
    elif not path.native:
        for block_m, block_n, warps in ((128, 128, 8), (128, 64, 8), (64, 128, 8), (64, 64, 4), (16, 128, 4)):
            for block_k in (64, 32):
                yield from (Config("decoded", block_m, block_n, block_k, warps, n) for n in ((2,) if amd else (3, 2)))
        for block_m, block_n, warps in ((128, 256, 8), (128, 128, 8), (128, 128, 4), (64, 128, 4), (64, 64, 4)):
            for block_k in (64, 32):
                yield from (Config("expanded", block_m, block_n, block_k, warps, n) for n in ((2,) if amd else (4, 3)))
    elif target.startswith("sm_10"):
        # One instruction takes 128 rows.
        for block_n, warps in ((256, 8), (128, 4), (64, 4)):
            yield from (Config("scaled", 128, block_n, k, warps, n) for k in (128, 256) for n in (4, 3, 2))
    else:
        for block_m, block_n, warps in ((128, 128, 8), (128, 64, 4), (64, 128, 4), (64, 64, 4)):
            yield from (Config("scaled", block_m, block_n, 128, warps, n) for n in ((2,) if amd else (3, 2)))


def seconds(config: Config, m: int, n: int, k: int, path: Path, target: str) -> float:
    """The model: a program multiplies, decodes and reads at its share of the peaks; waves of programs follow each
    other. inf where shared memory does not suffice."""
    gpu = gpu_of(target)
    if _shared(config, path) > gpu.shared:
        return float("inf")
    stored = _bits(path)
    bits = (16, 16) if config.how == "expanded" else stored
    rate = gpu.fp16 if config.how != "scaled" else gpu.fp4 if max(bits) == 4 else gpu.fp8
    steps = -(-k // config.block_k) * config.block_k
    # wgmma and tcgen05 take no fewer rows than these.
    rows = max(config.block_m, 128 if target.startswith("sm_10") else 64 if target.startswith("sm_9") else 16)
    time = 2.0 * rows * config.block_n * steps / (rate / gpu.units)
    if config.how == "decoded":
        time += DECODE_STEPS * (config.block_m + config.block_n) * steps / (gpu.fp32 / 2 / gpu.units)
    read = (config.block_m * bits[0] + config.block_n * bits[1]) * steps / 8.0
    time = max(time, read / (gpu.bandwidth * CACHE_SPEEDUP / gpu.units))
    # Short pipelines leave the matrix unit waiting for memory.
    time *= 1.0 + 0.25 / config.num_stages
    if _registers(config, path, target) > REGISTERS:
        time *= SPILLED
    waves = -(-(-(-m // config.block_m) * -(-n // config.block_n)) // gpu.units)
    total = waves * time + (m * bits[0] + n * bits[1]) * k / 8.0 / gpu.bandwidth
    if config.how == "expanded":
        total += 2 * LAUNCH + (m * (stored[0] + 16) + n * (stored[1] + 16)) * k / 8.0 / gpu.bandwidth
    return float(total)


def _bits(path: Path) -> tuple[int, int]:
    """Of a code of a and b in memory."""
    return 4 if path.a == "e2m1" else 8, 4 if path.b == "e2m1" else 8


def _shared(config: Config, path: Path) -> int:
    """Bytes of the tiles in flight; decoded ones lie beside them in 16 bits."""
    bits = (16, 16) if config.how == "expanded" else _bits(path)
    tile = (config.block_m * bits[0] + config.block_n * bits[1]) * config.block_k // 8
    scales = 0 if config.how == "expanded" else (config.block_m + config.block_n) * config.block_k // 16
    decoded = 2 * (config.block_m + config.block_n) * config.block_k if config.how == "decoded" else 0
    return int(config.num_stages * (tile + scales) + decoded)


def _registers(config: Config, path: Path, target: str) -> float:
    """Registers of a thread, about: its sums, what it holds of a step's operands where they pass through registers,
    addresses. sm_100 keeps the sums elsewhere until the end."""
    threads = config.num_warps * (64 if target.startswith("gfx") else 32)
    sums = config.block_m * config.block_n / threads
    passing = (config.block_m + config.block_n) * config.block_k / threads
    if config.how == "decoded":
        return 40.0 + sums + 2.0 * passing
    if config.how == "expanded":
        return 60.0 + sums
    if target.startswith("sm_10"):
        return 40.0 + sums + 0.375 * passing
    return 40.0 + sums + passing / 2


def key_of(m: int, n: int, k: int, path: Path, block: int, tiled: bool) -> str:
    """The class of shapes that share a choice: sizes up to the next power of two."""
    sizes = "x".join(str(1 << max(size - 1, 0).bit_length()) for size in (m, n, k))
    return f"{path.a} {path.b} 1x{block}{' tiled' if tiled else ''} {sizes}"
