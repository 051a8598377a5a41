"""Quantised operands: whether codes and scales fit a scheme, and the float32 factors that the scales stand for."""

from __future__ import annotations

from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme
from narrowgauge.kernels._scales_torch import block_scales
from narrowgauge.kernels.layout import layout_of, scale_dtype
from narrowgauge.kernels.tiles import tile_counts


def check_quantized(codes: Tensor, scale: Tensor, spec: Scheme, name: str = "codes") -> None:
    """Raises TypeError or ValueError, naming the argument, if codes and scale do not fit the scheme."""
    expected = layout_of(spec.element).code_dtype
    if codes.dtype != expected:
        raise TypeError(f"{name}: {spec} has {expected} codes, got {codes.dtype}")
    shape = spec.scale_shape(tuple(codes.shape))
    dtype = scale_dtype(spec)
    if tuple(scale.shape) != shape or scale.dtype != dtype:
        raise ValueError(
            f"{name} scale: {spec} on shape {tuple(codes.shape)} needs {dtype} {shape}, "
            f"got {scale.dtype} {tuple(scale.shape)}"
        )


def factors_of(scale: Tensor, outer: Tensor, spec: Scheme, cols: int) -> Tensor:
    """float32 factor of each tile of `spec.factor_tile`, [tiles down, tiles across], for a tensor of `cols` columns."""
    if not isinstance(spec.format, BlockFormat):
        return scale.flatten(0, -2)
    return block_scales(scale, spec.format, outer).flatten(0, -2)[:, : tile_counts((1, cols), spec.factor_tile)[1]]
