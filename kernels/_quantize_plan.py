"""How quantize cuts a tensor into programs, and what its kernels know of a scheme at compile time. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from narrowgauge.formats import BlockFormat, ScaleRule, Scheme
from narrowgauge.formats.scaling import exponent_parameters, zero_scale
from narrowgauge.kernels.layout import Layout, has_float_scales, layout_of

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
    tile = spec.factor_tile
    height = tile[0] or max(rows, 1)
    width = tile[1] or max(cols, 1)
    tall, wide = _ceil_pow2(height), _ceil_pow2(width)
    single_column = width >= cols
    single_row = height >= rows
    exact = (tall == height or single_row) and (wide == width or single_column)
    # Levels in float64 take registers.
    more = 2 if spec.stochastic and layout_of(spec.element).kind == "table" else 1
    if exact and not spec.two_level and not torch_scales(spec) and tall * wide <= 2 * FUSED_ELEMENTS:
        # As wide as the columns allow, then as high as the program holds; whole tiles either way.
        block_k = max(wide, min(_ceil_pow2(max(cols, 1)), 1024, FUSED_ELEMENTS // 2 // tall))
        block_m = max(tall, min(_ceil_pow2(max(rows, 1)), FUSED_ELEMENTS // 2 // block_k))
        warps = 16 if block_m * block_k > 8192 else 8 if block_m * block_k > 4096 else 4
        return Plan(True, block_m, block_k, tall, wide, min(16, warps * more))
    block_k = min(_ceil_pow2(max(cols, 1)), 512)
    block_m = min(_ceil_pow2(max(rows, 1)), 4096 // block_k)
    return Plan(False, block_m, block_k, height, width, 4 * more)


def _ceil_pow2(n: int) -> int:
    return 1 << (n - 1).bit_length() if n > 1 else 1


class ScaleLayout(NamedTuple):
    """What the kernels know of a scheme's scales: one compile-time constant.

    rule: amax, static, pow2 (stored as float32), code (a power of two stored as its code) or outer (codes of `element`
    times the tensor's scale). largest: what amax is scaled to. zero: scale of a group of zeros. For powers of two: the
    carry and emax of `exponent_parameters`, lowest, highest and zero_exponent; of stored codes their bias and NaN code.
    """

    rule: str
    largest: float
    zero: float = 1.0
    static: float = 0.0
    carry: int = 0
    emax: int = 0
    lowest: int = -126
    highest: int = 127
    zero_exponent: int = 0
    bias: int = 0
    nan_code: int = 0
    element: Layout | None = None


def torch_scales(spec: Scheme) -> bool:
    """Whether torch computes the scales, between the kernels of a two-stage launch: searched rules, scales rounded up,
    exponents of pairs, scale formats that bit arithmetic does not encode."""
    fmt = spec.format
    if not isinstance(fmt, BlockFormat):
        return spec.rule.searches
    return bool(fmt.micro_size) or (fmt.two_level and (spec.rule is not ScaleRule.AMAX or not has_float_scales(fmt)))


def scale_layout(spec: Scheme) -> ScaleLayout:
    """The layout of a scheme's scales; not of those that torch computes."""
    fmt, largest = spec.format, spec.element.amax_target
    if isinstance(fmt, BlockFormat) and fmt.two_level:
        return ScaleLayout("outer", largest, element=layout_of(fmt.scale_format))
    if isinstance(fmt, BlockFormat):
        carry, emax = exponent_parameters(fmt.element, spec.rule)
        lowest, highest = fmt.exponent_range
        nan = fmt.nan_scale_code
        return ScaleLayout(
            "code", largest, carry=carry, emax=emax, lowest=lowest, highest=highest, zero_exponent=lowest,
            bias=fmt.scale_format.bias, nan_code=nan,
        )  # fmt: skip
    if spec.rule.power_of_two:
        carry, emax = exponent_parameters(fmt, spec.rule)
        return ScaleLayout("pow2", largest, zero_scale(fmt), carry=carry, emax=emax)
    rule = "static" if spec.rule is ScaleRule.STATIC else "amax"
    return ScaleLayout(rule, largest, zero_scale(fmt), spec.static or 0.0)
