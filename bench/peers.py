"""Other people's quantisers of the same tensor to the same format, where they are installed and know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.kernels import quantize

GFLOAT_NAMES = {
    "e4m3fn": "ocp_e4m3",
    "e5m2": "ocp_e5m2",
    "e2m3fn": "ocp_e2m3",
    "e3m2fn": "ocp_e3m2",
    "e2m1fn": "ocp_e2m1",
}
GFLOAT_ROWS = 64
TORCHAO_DTYPES = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
TORCHAO_TILES = {"tensor": "PerTensor", "row": "PerRow"}
CAST_TILES = ("tensor", "row")


@dataclass(frozen=True)
class Peer:
    """`call` does 1/`factor` of the work, so that its time counts `factor` times; `codes` are those of its rows."""

    call: Callable[[], object]
    codes: Callable[[], Tensor]
    note: str
    factor: float = 1.0


def _scaled(x: Tensor, spec: Scheme) -> Any:
    """x divided by its scales: what a peer that only casts is given, outside of its time."""
    if spec.stochastic or spec.granularity not in CAST_TILES:
        raise ValueError(f"only casts, to nearest; with it are compared schemes per tensor or row, not {spec}")
    return (x * (1.0 / quantize(x, spec).scale)).cpu().numpy()


def ml_dtypes_peer(x: Tensor, spec: Scheme) -> Peer:
    """ml_dtypes' `astype` of values that were scaled beforehand."""
    fmt = spec.element
    dtype = getattr(_installed("ml_dtypes"), f"float{fmt.bits}_{fmt.name}", None)
    if dtype is None:
        raise ValueError(f"does not know {fmt.name}")
    values = _scaled(x, spec)

    def cast() -> Any:
        return values.astype(dtype)

    return Peer(cast, lambda: torch.from_numpy(cast().view("uint8")), "the cast alone, of values scaled beforehand")


def gfloat_peer(x: Tensor, spec: Scheme) -> Peer:
    """gfloat's `round_ndarray` and `encode_ndarray` of a slice of values that were scaled beforehand."""
    module = _installed("gfloat")
    if spec.element.name not in GFLOAT_NAMES:
        raise ValueError(f"does not know {spec.element.name}")
    info = getattr(import_module("gfloat.formats"), f"format_info_{GFLOAT_NAMES[spec.element.name]}")
    values = _scaled(x, spec)[:GFLOAT_ROWS].astype("float64")

    def encode() -> Any:
        return module.encode_ndarray(info, module.round_ndarray(info, values, sat=True))

    note = f"{values.shape[0]} of {x.shape[0]} rows, scaled beforehand; time multiplied up"
    factor = x.shape[0] / values.shape[0]
    return Peer(encode, lambda: torch.from_numpy(encode()).to(torch.uint8), note, factor)


def torchao_peer(x: Tensor, spec: Scheme) -> Peer:
    """torchao's `Float8Tensor.from_hp`: scales and cast, eager."""
    _installed("torchao")
    if spec.element.name not in TORCHAO_DTYPES or spec.granularity not in TORCHAO_TILES:
        raise ValueError(f"has no {spec}")
    quantization = import_module("torchao.quantization")
    granularity = getattr(quantization, TORCHAO_TILES[spec.granularity])()
    dtype = TORCHAO_DTYPES[spec.element.name]

    def convert() -> Any:
        return quantization.Float8Tensor.from_hp(x, dtype, granularity=granularity)

    return Peer(convert, lambda: convert().qdata.view(torch.uint8), "Float8Tensor.from_hp, eager: scales and cast")


PEERS: dict[str, Callable[[Tensor, Scheme], Peer]] = {
    "ml_dtypes": ml_dtypes_peer,
    "gfloat": gfloat_peer,
    "torchao": torchao_peer,
}


def find_peers(x: Tensor, spec: Scheme) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can serve, and for every other one the reason why not."""
    found, reasons = {}, {}
    for name, make in PEERS.items():
        try:
            found[name] = make(x, spec)
        except ValueError as reason:
            reasons[name] = str(reason)
    return found, reasons


def _installed(name: str) -> ModuleType:
    if find_spec(name) is None:
        raise ValueError("is not installed")
    return import_module(name)
