"""A float32 matrix kept under a scheme as plain tensors: packed codes and scales. For what is not a moment, such as a
projection or a preconditioner, and is written once in many steps.

    name                [rows, bytes of the packed codes] uint8 (kernels/packing.py), or the values in float32, bfloat16
    name_scale          the scheme's scales, absent for float32 and bfloat16
    name_outer          [] float32, the scale of a two-level format, else absent

Schemes are those of `quantize` along the rows: int4/1x256, nf4/1x64, mxfp4, int8/row; to nearest, without options.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels.layout import layout_for
from narrowgauge.kernels.packing import pack, unpack
from narrowgauge.kernels.tensor import canonical, dequantize_raw, quantize_raw

PLAIN = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Names that store values instead of codes."""


def matrix_scheme(scheme: Scheme | str, option: str) -> str:
    """The text of a scheme that stores a matrix. ValueError or TypeError, with the option's name, for others."""
    if isinstance(scheme, str) and scheme in PLAIN:
        return scheme
    if not isinstance(scheme, str | Scheme):
        raise TypeError(f"{option}: expected fp32, bf16 or a scheme, got {type(scheme).__name__}")
    try:
        text = canonical(scheme)
    except ValueError as error:
        raise ValueError(
            f"{option}: got {scheme!r}, accepted are fp32, bf16 and schemes as int4/1x256 ({error})"
        ) from None
    if "+" in text:
        raise ValueError(
            f"{option}: {text} asks for more than a stored matrix has; accepted are schemes without options"
        )
    return text


def store_matrix(x: Tensor, scheme: str, name: str) -> dict[str, Tensor]:
    """The tensors, named as the module says, that keep float32 `x` [rows, columns]."""
    if scheme in PLAIN:
        return {name: x.to(PLAIN[scheme], copy=True, memory_format=torch.contiguous_format)}
    codes, scale, outer = quantize_raw(x.contiguous(), scheme)
    spec = parse(scheme)
    stored = {name: pack(codes.contiguous(), spec.element.bits), f"{name}_scale": scale}
    return {**stored, f"{name}_outer": outer} if spec.two_level else stored


def load_matrix(state: Mapping[str, Tensor], scheme: str, name: str, columns: int) -> Tensor:
    """The float32 matrix [rows, columns] that `store_matrix` kept, as it reads back."""
    stored = state[name]
    if scheme in PLAIN:
        return stored.float()
    spec = parse(scheme)
    codes = unpack(stored, spec.element.bits, columns, signed=layout_for(spec).signed_codes)
    outer = state[f"{name}_outer"] if spec.two_level else torch.ones((), device=stored.device)
    return dequantize_raw(codes, state[f"{name}_scale"], outer, scheme, torch.float32)
