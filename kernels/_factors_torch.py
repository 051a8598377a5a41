"""Quantised operands: whether codes and scales fit a scheme, and the float32 factors that the scales stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme
from narrowgauge.kernels._scales_torch import block_scales
from narrowgauge.kernels.layout import layout_of, scale_dtype
from narrowgauge.kernels.tiles import tile_counts


def check_quantized(codes: Tensor, scale: Tensor, outer: Tensor, spec: Scheme) -> None:
    """Raises TypeError or ValueError, naming the argument, if codes and scales do not fit the scheme. outer of
    schemes without a second scale is not looked at."""
    expected = layout_of(spec.element).code_dtype
    if codes.dtype != expected:
        raise TypeError(f"codes: {spec} has {expected} codes, got {codes.dtype}")
    shape = spec.scale_shape(tuple(codes.shape))
    dtype = scale_dtype(spec)
    if tuple(scale.shape) != shape or scale.dtype != dtype:
        raise ValueError(
            f"scale: {spec} on shape {tuple(codes.shape)} needs {dtype} {shape}, got {scale.dtype} {tuple(scale.shape)}"
        )
    if spec.two_level and (outer.dim() != 0 or outer.dtype != torch.float32):
        raise ValueError(f"outer: {spec} has one of torch.float32 (), got {outer.dtype} {tuple(outer.shape)}")
    for name, tensor in (("scale", scale), ("outer", outer)):
        if tensor.device != codes.device:
            raise ValueError(f"{name}: is on {tensor.device}, codes on {codes.device}; all belong on one device")


def factors_of(scale: Tensor, outer: Tensor, spec: Scheme, cols: int) -> Tensor:
    """float32 factor of each tile of `spec.factor_tile`, [tiles down, tiles across], for a tensor of `cols` columns."""
    if not isinstance(spec.format, BlockFormat):
        return scale.flatten(0, -2)
    return block_scales(scale, spec.format, outer).flatten(0, -2)[:, : tile_counts((1, cols), spec.factor_tile)[1]]
