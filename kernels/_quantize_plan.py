"""How quantize cuts a tensor into programs, and what its kernels know of a scheme at compile time. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from narrowgauge.formats import BlockFormat, ScaleRule, Scheme
from narrowgauge.formats.scaling import SMALLEST_SCALE, exponent_parameters
from narrowgauge.kernels.layout import layout_of

FUSED_ELEMENTS = 8192
"""Elements that one program of the fused kernel holds in registers, tiles included."""


@dataclass(frozen=True)
class Plan:
    """Block of one program; `fused` if it holds whole tiles (of TILE_M x TILE_K, powers of two)."""

    fused: bool
    block_m: int
    block_k: int
    tile_m: int
    tile_k: int
    num_warps: int


def plan(rows: int, cols: int, spec: Scheme) -> Plan:
    """How a [rows, cols] tensor is cut; a pure function."""
    height = spec.tile[0] or max(rows, 1)
    width = spec.tile[1] or max(cols, 1)
    tall, wide = _ceil_pow2(height), _ceil_pow2(width)
    single_column = width >= cols
    single_row = height >= rows
    exact = (tall == height or single_row) and (wide == width or single_column)
    two_level = isinstance(spec.format, BlockFormat) and spec.format.two_level
    if exact and not two_level and tall * wide <= 2 * FUSED_ELEMENTS:
        # As wide as the columns allow, then as high as the program holds; whole tiles either way.
        block_k = max(wide, min(_ceil_pow2(max(cols, 1)), 1024, FUSED_ELEMENTS // 2 // tall))
        block_m = max(tall, min(_ceil_pow2(max(rows, 1)), FUSED_ELEMENTS // 2 // block_k))
        warps = 16 if block_m * block_k > 8192 else 8 if block_m * block_k > 4096 else 4
        return Plan(True, block_m, block_k, tall, wide, warps)
    block_k = min(_ceil_pow2(max(cols, 1)), 512)
    block_m = min(_ceil_pow2(max(rows, 1)), 4096 // block_k)
    return Plan(False, block_m, block_k, height, width, 4)


def _ceil_pow2(n: int) -> int:
    return 1 << (n - 1).bit_length() if n > 1 else 1


def scale_constants(spec: Scheme) -> dict[str, object]:
    """Compile-time arguments of `_scale_of`."""
    fmt = spec.format
    scale_format = layout_of(fmt.scale_format) if isinstance(fmt, BlockFormat) and fmt.two_level else None
    if scale_format is not None:
        rule, carry, emax = "outer", 0, 0
    elif spec.rule.power_of_two:
        rule = "e8m0" if isinstance(fmt, BlockFormat) else "pow2"
        carry, emax = exponent_parameters(spec.element, spec.rule)
    else:
        rule, carry, emax = ("static" if spec.rule is ScaleRule.STATIC else "amax"), 0, 0
    return {
        "RULE": rule,
        "MAX": spec.element.max,
        "CARRY": carry,
        "EMAX": emax,
        "STATIC": spec.static or 0.0,
        "TINY": SMALLEST_SCALE,
        "SCALE_F": scale_format,
    }
