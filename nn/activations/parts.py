"""A tensor as it is kept for backward: codes, scale, outer scale. Codes narrower than a byte are packed.

parts = compress(x, "int8/1x128")        x ≈ restore(parts, "int8/1x128", x.shape, x.dtype)
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.packing import pack, unpack
from narrowgauge.kernels.tensor import dequantize_raw, quantize_raw

Parts = tuple[Tensor, Tensor, Tensor]
PARTS = 3
"""How many tensors a compressed one consists of."""


def compress(x: Tensor, scheme: str) -> Parts:
    """(codes, scale, outer) of `x` [..., K] floating, as the operator `quantize` gives them, packed."""
    return packed(quantize_raw(x.contiguous(), scheme), scheme)


def packed(parts: Parts, scheme: str) -> Parts:
    """The same with codes of fewer than 8 bits packed along the last axis."""
    codes, scale, outer = parts
    bits = parse(scheme).element.bits
    return (codes if bits == 8 or not codes.dim() else pack(codes, bits)), scale, outer


def restore(parts: Parts, scheme: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """decode(codes) · scale, of `shape` and `dtype`."""
    codes, scale, outer = parts
    element = parse(scheme).element
    if element.bits != 8 and shape:
        codes = unpack(codes, element.bits, shape[-1], signed=layout_of(element).code_dtype == torch.int8)
    return dequantize_raw(codes, scale, outer, scheme, dtype)


def check_scheme(scheme: str | Scheme, name: str = "scheme", *, own_rows: bool = False) -> str:
    """The scheme as canonical text. ValueError if an activation cannot be kept so: stochastic rounding (there is no
    stream for it), more than 8 bits, or, with `own_rows`, a scale that several rows share."""
    spec = parse(scheme)
    if spec.stochastic:
        raise ValueError(f"{name}: got '{spec}', accepted: schemes that round to nearest, without +sr")
    if spec.element.bits > 8:
        raise ValueError(f"{name}: got '{spec}' of {spec.element.bits} bits, accepted: formats of at most 8 bits")
    if own_rows and spec.tile[0] != 1:
        raise ValueError(
            f"{name}: got '{spec}', in which several tokens share a scale; accepted: schemes in which each row has "
            f"its own, such as 'int8/1x128', 'e4m3fn/row', 'mxfp8'"
        )
    return str(spec)
