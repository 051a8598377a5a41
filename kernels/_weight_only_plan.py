"""How a weight-only product runs on a target: where its scales go, what the tensor core takes, tile and splits.

Pure functions; `kernels/_weight_only_model.py` ranks the candidates.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from narrowgauge.formats import BlockFormat, Format, Scheme
from narrowgauge.kernels._gemm_plan import INTERPRETER
from narrowgauge.kernels.layout import has_e8m0_scales, has_float_scales, layout_of
from narrowgauge.kernels.tables import float32_values

MOST_ROWS = 8
"""Rows of x up to which a launch without tensor cores is considered."""
_LARGEST_HALF = 65504.0


class Shape(NamedTuple):
    """Of a product: rows of x, rows of the weight, columns of both."""

    t: int
    n: int
    k: int

    def key(self, way: Way, spec: Scheme) -> str:
        """The class of shapes that share a launch: rows of x by powers of two."""
        rows = 1 << (self.t - 1).bit_length()
        stored = "" if way.bits == 8 else " packed"
        return f"{rows}x{self.n}x{self.k} {spec}{stored} {way.operand}{' zero' * way.zero}{' folds' * way.folds}"


class Way(NamedTuple):
    """What does not depend on the tile. bits: of a stored code, 8 for one a byte. nibbles: whether two of them are read
    as a byte. operand, precision: of the tensor core, "fp64" where there is none. scale: fp32, e8m0 or outer, see
    `_weight_only_kernel._factor`. tile: columns of a scale, 0 for all. sums: whether scales can multiply sums. folds:
    whether those of runs multiply the values before a tensor core. zero: whether there are zero points. decoding:
    instructions of a code, about."""

    bits: int
    nibbles: bool
    operand: str
    precision: str
    scale: str
    tile: int
    sums: bool
    folds: bool
    zero: bool
    decoding: int

    @property
    def per_byte(self) -> int:
        """Codes that are read together."""
        return 2 if self.nibbles else 1

    def where(self, kernel: str) -> str:
        """What the scales multiply: "sums", partial sums of "runs", or "values"."""
        if not self.sums:
            return "values"
        if self.tile == 0:
            return "sums"
        return "values" if kernel == "rows" or self.folds else "runs"

    def run(self, block_k: int) -> int:
        """Reads in a row of a block of `block_k` codes that surely have one scale."""
        if self.tile == 0:
            return block_k
        return min(block_k, _power_of_two_in(self.tile))


class Launch(NamedTuple):
    """kernel: "rows" or "dot". The tile in rows of x, rows of the weight and codes; splits: parts of K; Triton's
    options."""

    kernel: str
    block_t: int
    block_n: int
    block_k: int
    splits: int
    num_warps: int
    num_stages: int

    def blocks(self, k: int, way: Way) -> int:
        """Steps along K."""
        if way.where(self.kernel) == "runs" and self.kernel == "dot" and way.tile % self.block_k:
            return -(-k // way.tile) * -(-way.tile // self.block_k)
        return -(-k // self.block_k)

    def steps(self, k: int, way: Way) -> int:
        """Steps of one part."""
        return -(-self.blocks(k, way) // self.splits)


def _power_of_two_in(number: int) -> int:
    """The largest power of two that divides it."""
    return number & -number


@lru_cache(maxsize=256)
def holds(fmt: Format, dtype: torch.dtype) -> bool:
    """Whether `dtype` holds every value of the format (NaN and infinities as well)."""
    values = torch.from_numpy(float32_values(fmt))
    return bool(((values.to(dtype).to(values.dtype) == values) | values.isnan()).all())


@lru_cache(maxsize=256)
def scales_sums(spec: Scheme) -> bool:
    """Whether the scales of a scheme are constant along K and can multiply sums."""
    return spec.factor_tile[1] is None and is_moderate(spec.element)


@lru_cache(maxsize=256)
def is_moderate(fmt: Format) -> bool:
    """Whether the magnitudes of all values lie within 2^-32 and 2^32 (or are 0): their sums are safe in float32 before
    they are scaled, as those of formats that reach near its ends are not."""
    magnitude = np.abs(fmt.values())
    magnitude = magnitude[np.isfinite(magnitude) & (magnitude > 0)]
    return bool((magnitude <= 2.0**32).all() and (magnitude >= 2.0**-32).all())


@lru_cache(maxsize=256)
def holds_scaled(spec: Scheme, dtype: torch.dtype) -> bool:
    """Whether `dtype` holds every product of a value with a block's own scale, but for those beyond float32's normal
    numbers: then scales multiply values without a rounding."""
    fmt = spec.format
    if not isinstance(fmt, BlockFormat) or fmt.micro_size or fmt.scale_format.bits > 8:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.multiply.outer(spec.element.values(), fmt.scale_format.values())
    info = np.finfo(np.float32)
    usual = np.isfinite(exact) & (np.abs(exact) <= info.max) & (np.abs(exact) >= info.smallest_normal)
    products = torch.from_numpy(exact[usual])
    return bool((products.to(dtype).double() == products).all())


@lru_cache(maxsize=256)
def way_of(spec: Scheme, dtype: torch.dtype, packed: bool, zero: bool, target: str) -> Way:
    """How x of `dtype` is multiplied by a weight of `spec`."""
    fmt, tile = spec.element, spec.factor_tile[1] or 0
    sums = is_moderate(fmt)
    folds = not zero and holds_scaled(spec, dtype)
    if 0 < tile < 16:
        folds = True
    scale = "fp32"
    if isinstance(spec.format, BlockFormat) and has_e8m0_scales(spec.format):
        scale = "e8m0"
    elif isinstance(spec.format, BlockFormat) and has_float_scales(spec.format):
        scale = "outer"
    return Way(
        bits=fmt.bits if packed else 8,
        nibbles=packed and fmt.bits == 4 and tile % 2 == 0,
        operand=_operand(spec, dtype, folds or not sums, zero, target),
        precision="bf16x6" if target.startswith("sm_") else "ieee",
        scale=scale,
        tile=tile,
        sums=sums,
        folds=folds,
        zero=zero,
        decoding={"int": 3, "rf8": 16}.get(layout_of(fmt).kind, 6),
    )


def _operand(spec: Scheme, dtype: torch.dtype, scaled: bool, zero: bool, target: str) -> str:
    """x's own type, unless it is float16 and values, or their products with scales, may lie outside of it."""
    if dtype == torch.float64:
        return "fp64"
    if dtype == torch.float32:
        return "fp32"
    exact = holds_scaled(spec, dtype) if scaled else holds(spec.element, dtype) and not zero
    if target == INTERPRETER:  # which cannot multiply bfloat16, and truncates
        return "fp16" if dtype == torch.float16 and exact else "fp32"
    if dtype == torch.bfloat16:
        return "bf16"
    values = spec.element.values()
    fits = bool(np.abs(values[np.isfinite(values)]).max() <= _LARGEST_HALF)
    return "fp16" if exact or (fits and not scaled) else "fp32"


def candidates(shape: Shape, way: Way, target: str) -> list[Launch]:
    """Launches for a product, at least one of which can run."""
    found: list[Launch] = []
    if shape.t <= MOST_ROWS or way.operand == "fp64":
        found += _rows_candidates(shape, way, target)
    if way.operand != "fp64":
        found += _dot_candidates(shape, way, target)
    return found


def _rows_candidates(shape: Shape, way: Way, target: str) -> list[Launch]:
    block_t = min(2 if way.operand == "fp64" else 4, _above(shape.t))
    widest = max(16 * way.per_byte, _above(shape.k))
    return [
        how
        for block_n in (4, 8, 16)
        for bytes_ in (256, 512, 1024)
        if block_n * bytes_ >= 16 * 128  # so that each of 128 threads reads 16 bytes
        for splits in (1, 2, 4, 8)
        if _is_split(how := Launch("rows", block_t, block_n, min(bytes_ * way.per_byte, widest), splits,
                                   _warps(128, target), 2), shape, way)
    ]  # fmt: skip


def _dot_candidates(shape: Shape, way: Way, target: str) -> list[Launch]:
    return [
        how
        for block_t in (16, 32, 64, 128)
        if block_t <= min(max(16, _above(shape.t)), 64 if is_heavy(way) else 128)
        for block_n in (64, 128)
        for block_k in dot_depths(way)
        for splits in (1, 2, 4, 8, 16)
        for stages in ((2,) if target.startswith("gfx") else (3, 4))
        if _is_split(how := Launch("dot", block_t, block_n, block_k, splits,
                                   _warps(_dot_threads(block_n * block_t, target), target), stages), shape, way)
    ]  # fmt: skip


def _warps(threads: int, target: str) -> int:
    return threads // lanes(target)


def lanes(target: str) -> int:
    """Threads of a warp."""
    return 64 if target.startswith("gfx") else 32


def _dot_threads(sums: int, target: str) -> int:
    """Threads of a program that holds so many sums: more of them where sums and operands all live in registers."""
    in_registers = not target.startswith(("sm_9", "sm_10"))
    return 256 if sums > (4096 if in_registers else 8192) else 128


def is_heavy(way: Way) -> bool:
    """Whether decoding or taking float32 apart needs so many registers that only small tiles leave enough of them."""
    return way.operand == "fp32" or way.decoding > 6


def dot_depths(way: Way) -> tuple[int, ...]:
    """Columns of a block of the dot kernel: no more than a run has where its scale multiplies sums."""
    deepest = (32,) if is_heavy(way) else (64, 128)
    if way.where("dot") != "runs":
        return deepest
    whole = _power_of_two_in(way.tile)
    longest = whole if whole >= 16 else _above(way.tile)
    return tuple(sorted({min(depth, longest) for depth in deepest}))


def _above(number: int) -> int:
    """The next power of two."""
    return 1 << max(number - 1, 0).bit_length()


def _is_split(how: Launch, shape: Shape, way: Way) -> bool:
    """Whether every part has something to do."""
    blocks = how.blocks(shape.k, way)
    return how.splits == 1 or (how.splits - 1) * how.steps(shape.k, way) < blocks
