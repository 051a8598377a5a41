"""Codes in the place of a product's values: what the epilogue of the GEMM kernels knows of them, and when it can.

A program of the epilogue holds a block of the output; it can write codes of a scheme whose tiles all lie within such
blocks, or whose scale is given and not computed (rule `static`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from narrowgauge.formats import ScaleRule, Scheme
from narrowgauge.kernels._quantize_plan import ScaleLayout, Tiling, scale_layout, tiling, torch_scales
from narrowgauge.kernels.layout import Layout, blob_for, layout_for

WIDEST_PIECE = 128
"""Columns that the epilogue works on at a time, at most."""
LARGEST_SUM = 128 * 128
"""Elements of one program that sums the parts of a split contraction, at most."""


class Codes(NamedTuple):
    """Codes of the product under `spec`: the kernel's output is the codes [M, N]; scale is [tiles down, across]."""

    spec: Scheme
    scale: Tensor
    seed: int
    offset: int


class Requantisation(NamedTuple):
    """What the epilogue knows of the codes that it writes: one compile-time constant. given: the scale does not depend
    on the values."""

    scale: ScaleLayout
    tiling: Tiling
    layout: Layout
    stochastic: bool
    fours: bool
    given: bool


def is_given(spec: Scheme) -> bool:
    """Whether the scale is known before the values are."""
    return spec.rule is ScaleRule.STATIC


def fits(spec: Scheme, block_m: int, block_n: int) -> bool:
    """Whether blocks of the output hold whole tiles, whose scales the kernel can compute."""
    if is_given(spec):
        return True
    if torch_scales(spec) or spec.two_level:
        return False
    height, width = spec.factor_tile
    return height is not None and width is not None and block_m % height == 0 and block_n % width == 0


def sum_block(spec: Scheme | None) -> tuple[int, int]:
    """Rows and columns of one program that sums parts: whole tiles of the codes that it writes."""
    if spec is None or is_given(spec):
        return 16, 64
    height, width = spec.factor_tile
    return max(16, height or 1), max(64, width or 1)


def requantisation(codes: Codes | None, shape: tuple[int, int], block_m: int, block_n: int) -> dict[str, Any]:
    """The kernels' arguments for codes in blocks of this size, or for values."""
    if codes is None:
        return {"q_scale_ptr": None, "q_table_ptr": None, "stride_qm": 0, "seed": 0, "offset": 0, "Q": None}
    spec = codes.spec
    known = Requantisation(
        scale=scale_layout(spec),
        tiling=tiling(shape, spec.factor_tile, block_m, block_n),
        layout=layout_for(spec),
        stochastic=spec.stochastic,
        fours=spec.stochastic and shape[1] % 4 == 0,
        given=is_given(spec),
    )
    return {
        "q_scale_ptr": codes.scale, "q_table_ptr": blob_for(spec, codes.scale.device),
        "stride_qm": codes.scale.stride(0), "seed": codes.seed, "offset": codes.offset, "Q": known,
    }  # fmt: skip
