"""How the kernels of scaled_gemm are launched: candidates for a product on a target. Pure functions.

What the assembly of the builds without a GPU says, and candidates follow from it:
  - TMA (sm_90 and newer; 16-byte alignment, one contiguous axis) frees 40 to 50 registers of a thread.
  - sm_90: a promoted sum holds accumulator and partial sum in registers. A tile of 128x256 spills in one piece; as two
    halves, whose partial sums take turns, it does not. K-blocks, whose scales need registers too, leave 128x128.
  - sm_100: sums are in tensor memory; 128x256 in one piece, K-blocks 128x128. Warp specialisation builds without spills
    with 8 warps; for sm_90 Triton 3.7 ignores it.
  - Transposed views: wgmma and mma.sync want 8-bit operands along K. An operand that is contiguous the other way round
    is turned on its way: sm_90 stores it byte by byte into shared memory, some 64 stores of a thread for a tile of
    128x128 (about as long as the tile's products), the others read it so. tcgen05 takes either way, for nothing.
  - Skinny products: with fewer tiles than multiprocessors the contraction is split (`SPLITS`), and the parts summed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from narrowgauge.formats import Scheme, parse
from narrowgauge.formats.tiles import Tile
from narrowgauge.kernels._gemm_plan import INTERPRETER, MIN_BLOCK_K, PROMOTE_EVERY, Plan, plan, scale_columns
from narrowgauge.kernels._gpu_facts import gpu_of

SPLITS = (1, 2, 4, 8, 16, 32)
LEAST_STEPS = 4
"""Blocks along K that a part of a split contraction has at least, to be worth its workspace."""
TENSOR_COPIES = ("sm_90", "sm_100", "sm_103", "sm_120", "sm_121")
"""Targets with a tensor memory accelerator."""


class Config(NamedTuple):
    """A launch. block_n: columns of one of the tile's `halves`. tma: operands come by tensor descriptors. specialize:
    warps have separate tasks (copies, products, epilogue)."""

    block_m: int
    block_n: int
    block_k: int
    halves: int
    num_warps: int
    num_stages: int
    split_k: int = 1
    persistent: bool = False
    tma: bool = False
    specialize: bool = False
    group_m: int = 8


class Product(NamedTuple):
    """A class of products. m: rounded up to a power of two. a, b: texts of schemes. turned: the operands, of "ab", that
    are contiguous along M or N. aligned: whether tensor descriptors can describe both. out: bytes of an element."""

    m: int
    n: int
    k: int
    a: str
    b: str
    turned: str
    aligned: bool
    out: int

    @property
    def key(self) -> str:
        """The class as `kernels/tuning.py` names it."""
        a, b = (text + "ᵀ" * (name in self.turned) for text, name in ((self.a, "a"), (self.b, "b")))
        return f"{a} × {b} {self.m}x{self.n}x{self.k} out {self.out}{'' if self.aligned else ' unaligned'}"


def product_of(
    m: int, n: int, k: int, a: Scheme, b: Scheme, turned: str = "", aligned: bool = True, out: int = 2
) -> Product:
    """The class of an [m, k] times [n, k] product."""
    return Product(max(16, 1 << (m - 1).bit_length()) if m > 1 else 16, n, k, str(a), str(b), turned, aligned, out)


class Facts(NamedTuple):
    """What candidates and model need to know of a product's schemes on a target. columns: of a K-block, 0 for all.
    in_registers: operands and sums are in registers (mma.sync, MFMA), not in shared or tensor memory. decoded: codes
    are decoded first. per_row: every row of b has scales of its own K-blocks."""

    plan: Plan
    columns: int
    in_registers: bool
    decoded: bool
    per_row: bool


@lru_cache(maxsize=1024)
def facts_of(a: str, b: str, target: str) -> Facts:
    """See `Facts`."""
    spec_a, spec_b = parse(a), parse(b)
    how = plan(spec_a, spec_b, target)
    in_registers = not target.startswith(("sm_9", "sm_10")) or (how.operand == "int8" and target != "sm_90")
    return Facts(
        plan=how,
        columns=scale_columns(spec_a.factor_tile, spec_b.factor_tile),
        in_registers=in_registers,
        decoded=how.operand not in ("fp8", "int8"),
        per_row=_per_row(spec_b.factor_tile),
    )


def _per_row(tile: Tile) -> bool:
    """Whether every partial sum of a block of 128 rows has its row's scale."""
    height, width = tile
    return width is not None and height is not None and height % 128 > 0


def block_k_of(facts: Facts) -> int:
    """Columns of one step: no more than PROMOTE_EVERY, nor than a K-block."""
    block_k = PROMOTE_EVERY
    if facts.decoded or (facts.in_registers and facts.columns):
        block_k = 32 if facts.in_registers and facts.decoded else 64
    if facts.columns:
        block_k = max(MIN_BLOCK_K, min(block_k, 1 << (facts.columns - 1).bit_length()))
    return block_k


def _tiles(product: Product, facts: Facts, target: str, tma: bool) -> Iterator[tuple[int, int, int, int]]:
    """(block_m, block_n, halves, warps) that build without spills, those of 256 columns in the persistent form."""
    heavy = facts.plan.operand == "fp32" and facts.in_registers  # three bfloat16 of every operand are held beside it
    crowded = facts.decoded or (facts.columns > 0 if facts.in_registers else facts.per_row)
    if heavy:
        yield 128, 32, 1, 8
        yield 64, 32, 1, 4
        return
    if not crowded:
        if target == "sm_90" and tma and not facts.columns and not product.turned:
            yield 128, 128, 2, 8
        if target in ("sm_100", "sm_103") and tma and not facts.columns and not facts.in_registers:
            yield 128, 256, 1, 8
        if tma or not facts.in_registers or product.turned != "ab":
            yield 128, 128, 1, 8
    if product.m <= 16 and facts.in_registers and not target.startswith("gfx"):
        yield 16, 128, 1, 4
    yield 128, 64, 1, 8
    yield 64, 64, 1, 8 if target in ("sm_100", "sm_103", "sm_120", "sm_121") else 4


def blocks_along_k(product: Product, facts: Facts, block_k: int) -> int:
    """Steps of a whole contraction."""
    if facts.columns:
        return -(-product.k // facts.columns) * -(-facts.columns // block_k)
    return -(-product.k // block_k)


def _splits(tiles: int, steps: int, units: int) -> Iterator[int]:
    """1, and the numbers of parts that fill units which would stand idle."""
    for split in SPLITS:
        if split == 1 or (tiles * split < 4 * units and steps // split >= LEAST_STEPS):
            yield split


@lru_cache(maxsize=4096)
def candidates(product: Product, target: str) -> tuple[Config, ...]:
    """Every launch that a product may take on a target, the interpreter's single one included."""
    facts = facts_of(product.a, product.b, target)
    block_k, units = block_k_of(facts), gpu_of(target).units
    if target == INTERPRETER:
        return (Config(64 if product.m <= 64 else 128, 64, block_k, 1, 4, 2),)
    tma = target in TENSOR_COPIES and product.aligned and facts.columns % block_k == 0
    # Triton 3.7 does not build the products of three bfloat16 in mma.sync from descriptors.
    tma = tma and not (facts.in_registers and facts.plan.operand == "fp32")
    found = []
    for block_m, block_n, halves, warps in _tiles(product, facts, target, tma):
        if block_m > 64 and product.m <= 64:
            continue
        tiles = -(-product.m // block_m) * -(-product.n // (block_n * halves))
        for stages in _stages(facts, target) if halves == 1 else (3,):
            plain = Config(block_m, block_n, block_k, halves, warps, stages, tma=tma)
            if block_n * halves < 256:
                for split in _splits(tiles, blocks_along_k(product, facts, block_k), units):
                    found.append(plain._replace(split_k=split))
            if tiles > units and product.k > 0 and not _spills_when_persistent(facts, target):
                found.append(plain._replace(persistent=True))
                if tma and target in ("sm_100", "sm_103") and not facts.decoded and not facts.in_registers:
                    found.append(plain._replace(persistent=True, specialize=True))
    return tuple(found)


def _stages(facts: Facts, target: str) -> tuple[int, ...]:
    if target.startswith("gfx") or (facts.in_registers and facts.decoded):
        return (2,)
    return (4, 3) if target.startswith(("sm_9", "sm_10")) else (3, 2)


def _spills_when_persistent(facts: Facts, target: str) -> bool:
    """CDNA's compiler runs out of registers for the loop over tiles."""
    return target.startswith("gfx") and (facts.decoded or facts.columns > 0)
