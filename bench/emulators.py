"""Quantisers of bitsandbytes, pychop, qtorch and microxcaling as peers.

All but the first emulate: they give values, not codes.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from narrowgauge.bench.peer import CAST_TILES, Gives, Peer, installed, nibbles, scaled, slice_rows
from narrowgauge.formats import BlockFormat, FloatFormat, Scheme

BITSANDBYTES_4BIT = {"nf4": "nf4", "bnb_fp4": "fp4"}
BITSANDBYTES_MAPS = {"dynamic8": True, "udynamic8": False}
BITSANDBYTES_BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)
PYCHOP_MX = {
    "mxfp8_e4m3": "mxfp8_e4m3",
    "mxfp8_e5m2": "mxfp8_e5m2",
    "mxfp6_e2m3": "mxfp6_e2m3",
    "mxfp6_e3m2": "mxfp6_e3m2",
    "mxfp4": "mxfp4_e2m1",
}
PYCHOP_ROWS, PYCHOP_MX_ROWS = 512, 4
QTORCH_FORMATS = ("e4m3fn", "e5m2", "e3m4fn", "e4m3", "e3m4", "e2m3fn", "e3m2fn", "e2m1fn")
MICROXCALING = {
    "mxfp8_e4m3": "fp8_e4m3",
    "mxfp8_e5m2": "fp8_e5m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp4": "fp4_e2m1",
    "mxint8": "int8",
}
MICROXCALING_ROWS = 256


def bitsandbytes_peer(x: Tensor, spec: Scheme) -> Peer:
    """bitsandbytes' `quantize_4bit` or `quantize_blockwise`, a row or a run of a row as its block."""
    functional = installed("bitsandbytes") and import_module("bitsandbytes.functional")
    name = spec.element.name
    if (name not in BITSANDBYTES_4BIT and name not in BITSANDBYTES_MAPS) or spec.stochastic or spec.tile[0] != 1:
        raise ValueError(f"has no {spec}")
    size = spec.tile[1] or x.shape[1]
    if size not in BITSANDBYTES_BLOCKS or x.shape[1] % size:
        raise ValueError(f"takes blocks of {', '.join(map(str, BITSANDBYTES_BLOCKS))} values, not of {size}")
    if name in BITSANDBYTES_MAPS:
        table = functional.create_dynamic_map(BITSANDBYTES_MAPS[name]).to(x.device)

        def blockwise() -> Tensor:
            return functional.quantize_blockwise(x, code=table, blocksize=size)[0]

        return Peer(blockwise, blockwise, f"quantize_blockwise, blocksize={size}: scales and codes")

    def four_bits() -> Tensor:
        return functional.quantize_4bit(x, blocksize=size, quant_type=BITSANDBYTES_4BIT[name])[0]

    def codes() -> Tensor:
        return nibbles(four_bits().view(torch.uint8).reshape(-1), x.shape, high_first=True)

    return Peer(four_bits, codes, f"quantize_4bit, blocksize={size}: scales and codes, two a byte")


def pychop_peer(x: Tensor, spec: Scheme) -> Peer:
    """pychop's `p3109_quantize` of scaled values, or `mx_quantize`: values."""
    module = installed("pychop")
    fmt = spec.format
    if fmt.name in PYCHOP_MX and not spec.stochastic:
        part, factor = slice_rows(x.cpu(), PYCHOP_MX_ROWS)
        array = part.double().numpy()

        def blocks() -> Tensor:
            return torch.from_numpy(module.mx_quantize(array, PYCHOP_MX[fmt.name], block_size=32))

        note = f"mx_quantize, {part.shape[0]} of {x.shape[0]} rows, multiplied up; values, by the rule floor"
        return Peer(blocks, lambda: blocks().float(), note, factor, Gives.VALUES)
    if not isinstance(fmt, FloatFormat) or not fmt.name.startswith("binary"):
        raise ValueError(f"is compared for P3109 and MX, not {spec}")
    info = module.P3109Format(fmt.bits, fmt.mantissa_bits + 1, fmt.signed, "extended" if fmt.has_inf else "finite")
    values, factor = slice_rows(scaled(x, spec).double(), PYCHOP_ROWS)  # float32 is too narrow for some of its formats
    values = values if fmt.signed else values.clamp(min=0)

    def cast() -> Tensor:
        return module.p3109_quantize(values, info, saturate=True)

    note = f"p3109_quantize, float64, {values.shape[0]} of {x.shape[0]} rows, scaled beforehand, multiplied up; values"
    return Peer(cast, lambda: cast().float(), note, factor, Gives.ELEMENTS)


def qtorch_peer(x: Tensor, spec: Scheme) -> Peer:
    """qtorch's `float_quantize` of scaled values: values."""
    installed("qtorch")
    fmt = spec.format
    if fmt.name not in QTORCH_FORMATS or not isinstance(fmt, FloatFormat) or spec.granularity not in CAST_TILES:
        raise ValueError(f"has no {spec}")
    float_quantize = installed("qtorch.quant").float_quantize
    values = scaled(x, spec)

    def cast() -> Tensor:
        return float_quantize(values, exp=fmt.exponent_bits, man=fmt.mantissa_bits, rounding="nearest")

    note = "float_quantize: the cast alone, of values scaled beforehand; values, ties away"
    return Peer(cast, cast, note, gives=Gives.ELEMENTS)


def microxcaling_peer(x: Tensor, spec: Scheme) -> Peer:
    """microxcaling's `_quantize_mx`, ties to even: values."""
    if not isinstance(spec.format, BlockFormat) or spec.format.name not in MICROXCALING or spec.stochastic:
        raise ValueError(f"has no {spec}")
    installed("mx")
    quantize_mx = installed("mx.mx_ops")._quantize_mx
    part, factor = slice_rows(x, MICROXCALING_ROWS)

    def blocks() -> Tensor:
        element = MICROXCALING[spec.format.name]
        return quantize_mx(part, 8, element, axes=[-1], block_size=32, round="even")

    note = f"_quantize_mx, {part.shape[0]} of {x.shape[0]} rows, multiplied up; values, by the rule floor"
    return Peer(blocks, blocks, note, factor, Gives.VALUES)
