"""What another implementation of a quantiser is to a suite, and how its result is compared with ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from narrowgauge.formats import Format, Scheme
from narrowgauge.kernels import QuantizedTensor, quantize
from narrowgauge.kernels._tables_torch import decode

CAST_TILES = ("tensor", "row")
ABSENT = "is not installed"


class Gives(Enum):
    """What a peer's result is compared with: our codes, the values of our codes, or these times their scale."""

    CODES = "codes"
    ELEMENTS = "elements"
    VALUES = "values"


@dataclass(frozen=True)
class Peer:
    """`call` does 1/`factor` of the work, so that its time counts `factor` times; `result` is that of its rows.

    note: what it does less or more than `quantize`. gives: what the numbers in `result` are.
    """

    call: Callable[[], object]
    result: Callable[[], Tensor]
    note: str
    factor: float = 1.0
    gives: Gives = Gives.CODES


MakePeer = Callable[[Tensor, Scheme], Peer]
"""x [N, K] and a scheme → the peer that quantises it; ValueError with the reason where it cannot."""


def own_result(x: Tensor, spec: Scheme) -> QuantizedTensor:
    """What peers are compared with; stochastic schemes take a fixed seed."""
    return quantize(x, spec, 0 if spec.stochastic else None)


def percent_equal(peer: Peer, ours: QuantizedTensor) -> float:
    """How many of 100 numbers of the peer are ours. Values are compared as float32, zeros of both signs as one."""
    theirs = peer.result().cpu()
    if peer.gives is Gives.CODES:
        expected = ours.codes.cpu().view(torch.uint8)
    elif peer.gives is Gives.ELEMENTS:
        expected = element_values(ours.codes.cpu(), ours.scheme.element)
    else:
        expected = ours.dequantize(torch.float32).cpu()
    return 100 * float((theirs == expected[: theirs.shape[0]]).float().mean())


def element_values(codes: Tensor, element: Format) -> Tensor:
    """float32 value of each code, before the scale."""
    return decode(codes, element)


def scaled(x: Tensor, spec: Scheme) -> Tensor:
    """x divided by its scales, on the CPU: what a peer that only casts is given, outside of its time."""
    if spec.stochastic or spec.granularity not in CAST_TILES:
        raise ValueError(f"only casts, to nearest; with it are compared schemes per tensor or row, not {spec}")
    return (x * (1.0 / quantize(x, spec).scale)).cpu()


def installed(name: str) -> ModuleType:
    """The package `name`; ValueError where it is not installed or does not load."""
    if find_spec(name) is None:
        raise ValueError(ABSENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a library says about itself while it is loaded
            return import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(f"does not load: {error}") from error


def slice_rows(x: Tensor, rows: int) -> tuple[Tensor, float]:
    """The first rows of x, and how often they fit into the whole."""
    part = x[:rows]
    return part, x.shape[0] / part.shape[0]


def nibbles(packed: Tensor, shape: tuple[int, ...], *, high_first: bool = False) -> Tensor:
    """The two codes of each byte, in `shape`."""
    halves = (packed >> 4, packed & 15) if high_first else (packed & 15, packed >> 4)
    return torch.stack(halves, dim=-1).reshape(shape)
