"""What block_scaled_gemm refuses, and why; see kernels/block_gemm.py for what it takes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.kernels._block_gemm_plan import ELEMENTS, block_of, path_of
from narrowgauge.kernels._gemm_checks import OUT_DTYPES
from narrowgauge.kernels.layout import has_e8m0_scales
from narrowgauge.kernels.swizzle import padded_shape

TILED = "128x4"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@lru_cache(maxsize=256)
def takes_scales(a: str, b: str, target: str) -> bool:
    """Whether matrix units of `target` multiply codes of the two schemes with the scales of their blocks."""
    try:
        specs = _check_scheme("a", a), _check_scheme("b", b)
    except ValueError:
        return False
    return block_of(specs[0]) == block_of(specs[1]) and path_of(*specs, target).native


def _check_scheme(name: str, text: str) -> Scheme:
    spec = parse(text)
    fmt = spec.format
    ours = isinstance(fmt, BlockFormat) and fmt.element.name in ELEMENTS and fmt.block_rows == 1
    if ours and isinstance(fmt, BlockFormat):
        mx = has_e8m0_scales(fmt) and fmt.block_size == 32
        nvfp4 = fmt.two_level and (fmt.element.name, fmt.scale_format.name, fmt.block_size) == ("e2m1fn", "e4m3fn", 16)
        ours = mx or nvfp4
    if not ours:
        raise ValueError(
            f"{name}: got {text!r}, accepted: mxfp8, mxfp8_e5m2, mxfp6, mxfp6_e3m2, mxfp4, nvfp4 "
            "(scaled_gemm multiplies the others)"
        )
    return spec


def _check_scale(name: str, scale: Tensor, outer: Tensor | None, spec: Scheme, rows: int, k: int) -> None:
    if scale.dtype != torch.uint8:
        raise TypeError(f"{name}_scale: {spec} has uint8 scale codes, got {_name(scale.dtype)}")
    cols = -(-k // block_of(spec))
    high, wide = padded_shape(rows, cols, TILED)
    if tuple(scale.shape) not in ((rows, cols), (high * wide,)) or (scale.dim() == 1 and not scale.is_contiguous()):
        raise ValueError(
            f"{name}_scale: {spec} on {rows} rows of {k} codes has scales of shape {(rows, cols)}, or "
            f"{(high * wide,)} contiguous in layout {TILED!r}; got {tuple(scale.shape)}"
        )
    if spec.two_level and (outer is None or outer.dtype != torch.float32 or outer.numel() != 1):
        got = "None" if outer is None else f"{_name(outer.dtype)} {tuple(outer.shape)}"
        raise ValueError(f"{name}_outer: {spec} has one float32 scale for the whole tensor, got {got}")
    if not spec.two_level and outer is not None:
        raise ValueError(f"{name}_outer: {spec} has no second scale; accepted: None, got {tuple(outer.shape)}")


def _contraction(a: Tensor, b: Tensor, packed: tuple[bool, bool]) -> int:
    """K of two operands; ValueError where theirs differ."""
    k = a.shape[1] * (1 + packed[0]) if packed[0] == packed[1] or not packed[0] else b.shape[1]
    expected = [-(-k // 2) if side else k for side in packed]
    if [a.shape[1], b.shape[1]] != expected:
        raise ValueError(
            f"b: the contraction of a, {tuple(a.shape)}{' packed' if packed[0] else ''}, and b, {tuple(b.shape)}"
            f"{' packed' if packed[1] else ''}, differs; accepted: [M, K] and [N, K], packed [M, ceil(K / 2)]"
        )
    return k


def check(
    a: Tensor, a_scale: Tensor, a_outer: Tensor | None, b: Tensor, b_scale: Tensor, b_outer: Tensor | None,
    a_scheme: str, b_scheme: str, packed: bool, bias: Tensor | None, out_dtype: torch.dtype,
) -> tuple[tuple[Scheme, Scheme], tuple[bool, bool], int]:  # fmt: skip
    """The schemes, which sides have packed codes, and K. TypeError or ValueError, naming the argument, for a call that
    the contract excludes."""
    specs = _check_scheme("a_scheme", a_scheme), _check_scheme("b_scheme", b_scheme)
    if block_of(specs[0]) != block_of(specs[1]):
        raise ValueError(f"b_scheme: {b_scheme} does not go with {a_scheme}; accepted: two MX formats, or nvfp4 twice")
    for name, codes in (("a", a), ("b", b)):
        if codes.dtype != torch.uint8:
            raise TypeError(f"{name}: expected uint8 codes, got {_name(codes.dtype)}")
        if codes.dim() != 2:
            raise ValueError(f"{name}: expected a matrix of codes, got shape {tuple(codes.shape)}")
    sides = packed and specs[0].element.bits == 4, packed and specs[1].element.bits == 4
    if packed and not any(sides):
        raise ValueError(f"packed: neither {a_scheme} nor {b_scheme} has codes of 4 bits; accepted: False")
    k = _contraction(a, b, sides)
    _check_scale("a", a_scale, a_outer, specs[0], a.shape[0], k)
    _check_scale("b", b_scale, b_outer, specs[1], b.shape[0], k)
    if bias is not None and (tuple(bias.shape) != (b.shape[0],) or not bias.dtype.is_floating_point):
        raise ValueError(f"bias: expected [{b.shape[0]}] floating numbers, got {_name(bias.dtype)} {tuple(bias.shape)}")
    if out_dtype not in OUT_DTYPES:
        raise TypeError(f"out_dtype: expected {', '.join(map(_name, OUT_DTYPES))}, got {_name(out_dtype)}")
    others = {"a_scale": a_scale, "a_outer": a_outer, "b": b, "b_scale": b_scale, "b_outer": b_outer, "bias": bias}
    for name, tensor in others.items():
        if tensor is not None and tensor.device != a.device:
            raise ValueError(f"{name}: is on {tensor.device}, a on {a.device}; all tensors belong on one device")
    return specs, sides, k
