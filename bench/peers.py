"""Other people's quantisers of the same tensor to the same format, where they are installed and know it.

Here are torch's own, torchao and the packages of number types; `emulators.py` has the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from narrowgauge.bench.emulators import bitsandbytes_peer, microxcaling_peer, pychop_peer, qtorch_peer
from narrowgauge.bench.peer import CAST_TILES, MakePeer, Peer, installed, nibbles, scaled, slice_rows
from narrowgauge.formats import BlockFormat, FloatFormat, IntFormat, Scheme

GFLOAT_ROWS = 64
TORCH_DTYPES = {
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "e4m3fnuz": torch.float8_e4m3fnuz,
    "e5m2fnuz": torch.float8_e5m2fnuz,
}
TORCHAO_DTYPES = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
TORCHAO_TILES = {"tensor": "PerTensor", "row": "PerRow"}
TORCHAO_MX: dict[str, torch.dtype | str] = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp4": torch.float4_e2m1fn_x2,
}
CAST_ALONE = "the cast alone, of values scaled beforehand"


def torch_cast_peer(x: Tensor, spec: Scheme) -> Peer:
    """torch's `to` of values that were scaled beforehand."""
    dtype = TORCH_DTYPES.get(spec.element.name)
    if dtype is None or isinstance(spec.format, BlockFormat):
        raise ValueError(f"has no type for {spec}")
    values = scaled(x, spec).to(x.device)
    return Peer(lambda: values.to(dtype), lambda: values.to(dtype).view(torch.uint8), f"x.to(…): {CAST_ALONE}")


def torch_eager_peer(x: Tensor, spec: Scheme) -> Peer:
    """What one writes in torch: amax, scale, product, clamp, cast."""
    fmt, rule = spec.format, spec.rule.value
    dtype = TORCH_DTYPES.get(spec.element.name)
    is_integer = isinstance(fmt, IntFormat) and fmt.is_signed and not fmt.fraction_bits
    if (dtype is None and not is_integer) or spec.granularity not in CAST_TILES or spec.stochastic or rule != "amax":
        raise ValueError(f"compared are torch's types and integers, per tensor or row, not {spec}")
    low, high = float(spec.element.min), float(spec.element.max)

    def convert() -> Tensor:
        amax = x.abs().amax(dim=-1, keepdim=True) if spec.granularity == "row" else x.abs().amax()
        y = x * (high / amax)
        return y.round_().clamp_(low, high).to(torch.int8) if dtype is None else y.clamp_(low, high).to(dtype)

    return Peer(
        convert, lambda: convert().view(torch.uint8), "torch, eager: amax, scale, clamp, cast; x · (max / amax)"
    )


def ml_dtypes_peer(x: Tensor, spec: Scheme) -> Peer:
    """ml_dtypes' `astype` of values that were scaled beforehand."""
    fmt = spec.element
    dtype = getattr(installed("ml_dtypes"), f"float{fmt.bits}_{fmt.name}", None)
    if dtype is None:
        raise ValueError(f"does not know {fmt.name}")
    values = scaled(x, spec).numpy()

    def cast() -> Any:
        return values.astype(dtype)

    return Peer(cast, lambda: torch.from_numpy(cast().view("uint8")), CAST_ALONE)


def gfloat_peer(x: Tensor, spec: Scheme) -> Peer:
    """gfloat's `round_ndarray` and `encode_ndarray` of a slice of values that were scaled beforehand."""
    module, fmt = installed("gfloat"), spec.element
    if type(fmt) is not FloatFormat or not fmt.subnormals:
        raise ValueError(f"does not know {fmt.name}")
    info = module.FormatInfo(
        name=fmt.name,
        k=fmt.bits,
        precision=fmt.mantissa_bits + 1,
        bias=fmt.bias,
        is_signed=fmt.is_signed,
        domain=module.Domain.Extended if fmt.has_infinity else module.Domain.Finite,
        has_nz=fmt.has_negative_zero,
        num_high_nans=fmt.nan_codes,
        has_subnormals=True,
        is_twos_complement=False,
    )
    part, factor = slice_rows(scaled(x, spec), GFLOAT_ROWS)
    values = part.double().numpy() if fmt.is_signed else part.double().clamp(min=0).numpy()

    def encode() -> Any:
        return module.encode_ndarray(info, module.round_ndarray(info, values, sat=True))

    note = f"{part.shape[0]} of {x.shape[0]} rows, scaled beforehand; time multiplied up"
    return Peer(encode, lambda: torch.from_numpy(encode()).to(torch.uint8), note, factor)


def torchao_peer(x: Tensor, spec: Scheme) -> Peer:
    """torchao's `Float8Tensor.from_hp`, `to_mx` or `to_nvfp4`: scales and cast, eager."""
    installed("torchao")
    if spec.stochastic:
        raise ValueError(f"has no {spec}")
    if spec.format.name in TORCHAO_MX:
        return _torchao_mx(x, spec)
    if str(spec) == "nvfp4":
        return _torchao_nvfp4(x)
    if spec.element.name not in TORCHAO_DTYPES or spec.granularity not in TORCHAO_TILES or spec.rule.value != "amax":
        raise ValueError(f"has no {spec}")
    quantization = import_module("torchao.quantization")
    granularity = getattr(quantization, TORCHAO_TILES[spec.granularity])()
    dtype = TORCHAO_DTYPES[spec.element.name]

    def convert() -> Any:
        return quantization.Float8Tensor.from_hp(x, dtype, granularity=granularity)

    return Peer(convert, lambda: convert().qdata.view(torch.uint8), "Float8Tensor.from_hp, eager: scales and cast")


def _torchao_mx(x: Tensor, spec: Scheme) -> Peer:
    to_mx = import_module("torchao.prototype.mx_formats.mx_tensor").to_mx
    modes = import_module("torchao.prototype.mx_formats.config").ScaleCalculationMode
    mode, element = getattr(modes, spec.rule.name), TORCHAO_MX[spec.format.name]

    def convert() -> Tensor:
        return to_mx(x, element, 32, mode)[1]

    def codes() -> Tensor:
        stored = convert().view(torch.uint8)
        return stored if spec.element.bits > 4 else nibbles(stored, x.shape)

    return Peer(
        convert, codes, f"to_mx, eager: scales and cast{', two codes a byte' if spec.element.bits == 4 else ''}"
    )


def _torchao_nvfp4(x: Tensor) -> Peer:
    module = import_module("torchao.prototype.mx_formats.nvfp4_tensor")

    def convert() -> Any:
        return module.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=module.per_tensor_amax_to_scale(x.abs().max()))

    note = "NVFP4Tensor.to_nvfp4, eager: scales and cast, two codes a byte"
    return Peer(convert, lambda: nibbles(convert().qdata.view(torch.uint8), x.shape), note)


PEERS: dict[str, MakePeer] = {
    "torch cast": torch_cast_peer,
    "torch eager": torch_eager_peer,
    "ml_dtypes": ml_dtypes_peer,
    "gfloat": gfloat_peer,
    "torchao": torchao_peer,
    "bitsandbytes": bitsandbytes_peer,
    "pychop": pychop_peer,
    "qtorch": qtorch_peer,
    "microxcaling": microxcaling_peer,
}


CPU_ALONE = ("ml_dtypes", "gfloat", "pychop", "qtorch")


def find_peers(x: Tensor, spec: Scheme) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can serve, and for every other one the reason why not."""
    found, reasons = {}, {}
    for name, make in PEERS.items():
        if name in CPU_ALONE and x.device.type != "cpu":
            reasons[name] = "runs on the CPU alone"
            continue
        try:
            found[name] = make(x, spec)
        except ValueError as reason:
            reasons[name] = str(reason)
    return found, reasons
