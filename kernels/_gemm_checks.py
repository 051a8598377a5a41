"""What scaled_gemm refuses, and why; see kernels/gemm.py for what it takes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Format, Scheme, parse
from narrowgauge.kernels._gemm_activation import check_activation
from narrowgauge.kernels._gemm_plan import scale_columns
from narrowgauge.kernels.layout import layout_of, scale_dtype
from narrowgauge.kernels.tiles import tile_counts

OUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_PRODUCT = 2.0**96
"""Of two decoded values: float32 then holds the sum of 2^31 of them."""
SMALLEST_PRODUCT = 2.0**-126


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_side(name: str, spec: Scheme) -> None:
    if spec.factor_tile[1] == 1:
        raise ValueError(
            f"{name}: {spec} has a scale for every element of the contraction, which cannot leave the sum; "
            "accepted: tensor, row and blocks along K (quantise the transposed tensor by row)"
        )
    layout = layout_of(spec.element)
    if layout.kind == "int" and not layout.sign_bit:
        raise ValueError(f"{name}: {spec} has unsigned codes, which no tensor core path takes; accepted: int8, int4")


@lru_cache(maxsize=256)
def check_schemes(a: Scheme, b: Scheme) -> None:
    """Raises ValueError if no product of the two is defined."""
    _check_side("a_scheme", a)
    _check_side("b_scheme", b)
    kinds = {"int" if layout_of(spec.element).kind == "int" else "float" for spec in (a, b)}
    if len(kinds) > 1:
        raise ValueError(f"b_scheme: {b} does not go with {a}; accepted: two integer or two floating formats")
    (small_a, large_a), (small_b, large_b) = (_magnitudes(spec.element) for spec in (a, b))
    largest, smallest = large_a * large_b, small_a * small_b
    if largest > LARGEST_PRODUCT or smallest < SMALLEST_PRODUCT:
        raise ValueError(
            f"b_scheme: products of {a.element.name} and {b.element.name} reach from {smallest:.3g} to {largest:.3g}, "
            f"beyond the float32 accumulator; accepted: {SMALLEST_PRODUCT:.3g} to {LARGEST_PRODUCT:.3g}"
        )
    wide_a, wide_b = a.factor_tile[1], b.factor_tile[1]
    if wide_a and wide_b and max(wide_a, wide_b) % min(wide_a, wide_b):
        raise ValueError(
            f"b_scheme: {b} has K-blocks of {wide_b} columns, {a} of {wide_a}; accepted: one divides the other"
        )


def _magnitudes(fmt: Format) -> tuple[float, float]:
    """The smallest and the largest magnitude of a format's values but zero."""
    magnitude = np.abs(fmt.values())
    magnitude = magnitude[np.isfinite(magnitude) & (magnitude > 0)]
    return float(magnitude.min()), float(magnitude.max())


def _check_operand(name: str, codes: Tensor, scale: Tensor, spec: Scheme) -> None:
    expected = layout_of(spec.element).code_dtype
    if codes.dtype != expected:
        raise TypeError(f"{name}: {spec} has {_name(expected)} codes, got {_name(codes.dtype)}")
    if codes.dim() != 2:
        raise ValueError(f"{name}: expected a matrix of codes, got shape {tuple(codes.shape)}")
    block = isinstance(spec.format, BlockFormat)
    dtype, shape = scale_dtype(spec), spec.scale_shape(tuple(codes.shape))
    if block and scale.dtype == torch.float32:
        shape = tile_counts(codes.shape, spec.factor_tile)
    elif scale.dtype != dtype:
        accepted = f"{_name(dtype)} scales{' (or float32 factors)' if block else ''}"
        raise TypeError(f"{name}_scale: {spec} has {accepted}, got {_name(scale.dtype)}")
    elif spec.two_level:
        raise ValueError(
            f"{name}_scale: {spec} has a second scale for the whole tensor, which codes of the blocks leave out; "
            "accepted: float32 factors, as QuantizedTensor.factors() gives them"
        )
    if tuple(scale.shape) != shape:
        raise ValueError(
            f"{name}_scale: {spec} on codes of shape {tuple(codes.shape)} has scales of shape {shape}, "
            f"got {tuple(scale.shape)}"
        )


def check(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, a_scheme: str, b_scheme: str, bias: Tensor | None,
    out_dtype: torch.dtype, activation: str = "none",
) -> tuple[Scheme, Scheme]:  # fmt: skip
    """The two schemes. TypeError or ValueError, naming the argument, for a call that the contract excludes."""
    spec_a, spec_b = parse(a_scheme), parse(b_scheme)
    check_activation(activation)
    check_schemes(spec_a, spec_b)
    _check_operand("a", a, a_scale, spec_a)
    _check_operand("b", b, b_scale, spec_b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"b: expected [N, {a.shape[1]}] for a of shape {tuple(a.shape)}, got {tuple(b.shape)}")
    if bias is not None and (tuple(bias.shape) != (b.shape[0],) or not bias.dtype.is_floating_point):
        raise ValueError(f"bias: expected [{b.shape[0]}] floating numbers, got {_name(bias.dtype)} {tuple(bias.shape)}")
    if out_dtype not in OUT_DTYPES:
        names = ", ".join(_name(dtype) for dtype in OUT_DTYPES)
        raise TypeError(f"out_dtype: expected {names}, got {_name(out_dtype)}")
    for name, tensor in (("a_scale", a_scale), ("b", b), ("b_scale", b_scale), ("bias", bias)):
        if tensor is not None and tensor.device != a.device:
            raise ValueError(f"{name}: is on {tensor.device}, a on {a.device}; all tensors belong on one device")
    if layout_of(spec_a.element).kind == "int":
        terms = min(a.shape[1], scale_columns(spec_a.factor_tile, spec_b.factor_tile) or a.shape[1])
        limit = exact_terms(spec_a, spec_b, 2**31 - 1)
        if terms > limit:
            raise ValueError(f"a: sums of {terms} products may leave int32; accepted: at most {limit} along K")
    return spec_a, spec_b


def exact_terms(a: Scheme, b: Scheme, largest: int) -> int:
    """How many products of integer codes add up to at most `largest`, whatever the codes."""
    return int(largest // 2 ** (a.element.bits - 1 + b.element.bits - 1))
