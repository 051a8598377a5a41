"""Further implementations for `narrowgauge numerics diff`, beside those that `narrowgauge.numerics` knows by itself:
the kernels of this package, which are a layer above it, gfloat, and torch's casts on a GPU.

A cast gives codes, of every element for itself; a quantizer (codes, scale, outer).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import FloatFormat, Format, Scheme, quantize_reference
from narrowgauge.numerics.quantizers.implementations import Implementation, register_implementation

Parts = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
INTERPRET = "TRITON_INTERPRET"

GFLOAT_NAMES = {
    "e4m3fn": "ocp_e4m3",
    "e5m2": "ocp_e5m2",
    "e2m3fn": "ocp_e2m3",
    "e3m2fn": "ocp_e3m2",
    "e2m1fn": "ocp_e2m1",
    "e8m0fnu": "ocp_e8m0",
    "fp16": "binary16",
    "bf16": "bfloat16",
}
"""Our names and gfloat's."""


def _narrowgauge(scheme: Scheme, seed: int = 0) -> Implementation:
    """The operator on the CPU, as users call it."""
    from narrowgauge.commands.numerics_quantizer import quantize_by_kernel

    return _of_kernel(lambda x, chosen: quantize_by_kernel(x, chosen, seed), scheme, "narrowgauge")


def prepare_interpreter() -> None:
    """Has Triton's interpreter run the kernels where there is no CUDA device. It counts when triton is imported, and
    not afterwards: call this first."""
    import torch

    if "triton" not in sys.modules and not torch.cuda.is_available():
        os.environ[INTERPRET] = "1"


def _triton(scheme: Scheme, seed: int = 0) -> Implementation:
    """The Triton kernel: compiled where there is a CUDA device, else in Triton's interpreter."""
    if find_spec("triton") is None:
        raise ValueError("triton: the package triton is not installed")
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and os.environ.get(INTERPRET) != "1":
        raise ValueError(f"triton: no CUDA device, and triton came without its interpreter; set {INTERPRET}=1 outside")
    from narrowgauge.kernels import get_op

    kernel = get_op("quantize").implementation("triton")

    def run(x: NDArray[np.float32], chosen: Scheme) -> Parts:
        parts = kernel(torch.from_numpy(np.ascontiguousarray(x)).to(device), str(chosen), seed, 0)
        codes, scale, outer = (part.cpu().numpy() for part in parts)
        return codes, scale, outer

    return _of_kernel(run, scheme, "triton")


def _of_kernel(run: Callable[[NDArray[np.float32], Scheme], Parts], scheme: Scheme, name: str) -> Implementation:
    """A kernel as an implementation of `scheme`. ValueError with the kernel's reason where it does not serve it."""
    is_cast = scheme.static == 1.0
    # In a cast nothing is shared, but the kernels give up a group for a NaN: each input gets one of its own.
    chosen = replace(scheme, tile=(1, 1)) if is_cast else scheme
    try:
        run(np.ones((1, 1), np.float32), chosen)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not is_cast:
        return lambda x: run(x, chosen)
    # Infinities spoil their group, too, unless they are asked to saturate, which is the cast that there is.
    limit = np.finfo(np.float32).max
    return lambda x: run(np.where(np.isinf(x), np.copysign(limit, x), x), chosen)[0]


def _cuda(scheme: Scheme) -> Implementation:
    """torch's own cast on a GPU."""
    import torch

    if not torch.cuda.is_available():
        raise ValueError("cuda: torch sees no CUDA device here")
    element = _cast_element(scheme, "cuda")
    known = {"fp16": "float16", "bf16": "bfloat16"}
    dtype = getattr(torch, known.get(element.name, f"float8_{element.name}"), None)
    if dtype is None:
        raise ValueError(f"cuda: torch has no type for {element.name}")
    integer = torch.uint8 if dtype.itemsize == 1 else torch.int16

    def cast(x: NDArray[np.float32]) -> NDArray[Any]:
        narrow = torch.from_numpy(np.ascontiguousarray(x)).to("cuda").to(dtype)
        return np.asarray(narrow.view(integer).cpu().numpy())

    return cast


def _gfloat(scheme: Scheme) -> Implementation:
    """gfloat's rounding to nearest even, saturating, and its encoding; NaN is left out where a format has none."""
    element = _cast_element(scheme, "gfloat")
    if find_spec("gfloat") is None:
        raise ValueError("gfloat: the package gfloat is not installed; pip install 'narrowgauge[oracles]'")
    if not isinstance(element, FloatFormat) or element.name not in GFLOAT_NAMES:
        raise ValueError(f"gfloat: it does not describe {element.name}; it does {', '.join(GFLOAT_NAMES)}")
    import gfloat
    import gfloat.formats

    info = getattr(gfloat.formats, f"format_info_{GFLOAT_NAMES[element.name]}")

    def cast(x: NDArray[np.float32]) -> NDArray[Any]:
        wide = x.astype(np.float64)
        kept = wide if element.has_nan else np.nan_to_num(wide, nan=0.0, posinf=np.inf, neginf=-np.inf)
        rounded = gfloat.round_ndarray(info, kept, gfloat.RoundMode.TiesToEven, sat=True)
        return np.asarray(gfloat.encode_ndarray(info, rounded)).astype(element.code_dtype)

    return cast


def _cast_element(scheme: Scheme, name: str) -> Format:
    if scheme.static != 1.0:
        raise ValueError(f"{name}: it casts to formats, accepted: a format such as e4m3fn, got the scheme {scheme}")
    return scheme.element


def seeded(name: str, scheme: Scheme, seed: int) -> Implementation:
    """The implementation of a stochastic scheme with its seed; ValueError for those that take none."""
    makers = {"reference": _reference, "narrowgauge": _narrowgauge, "triton": _triton}
    if name not in makers:
        raise ValueError(f"{name}: it does not round under the random bits of a seed, accepted: {', '.join(makers)}")
    chosen = makers[name](scheme, seed)

    def run(x: NDArray[np.float32]) -> Any:
        return chosen(x)

    run.__name__ = name
    return run


def _reference(scheme: Scheme, seed: int) -> Implementation:
    return lambda x: quantize_reference(x, scheme, seed)


for _name, _build in {"narrowgauge": _narrowgauge, "triton": _triton, "cuda": _cuda, "gfloat": _gfloat}.items():
    register_implementation(_name, _build)
