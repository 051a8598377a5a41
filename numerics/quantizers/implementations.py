"""Named implementations of casts and quantizers, for `diff`: those of this package, ml_dtypes and torch, and callers'
own.

`build(scheme)` gives a function of a float32 numpy array [rows, cols] that returns what `check_quantizer` accepts. A
scheme whose scale is `static=1.0` is a plain cast, in which every element stands for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import Format, NanPolicy, Overflow, Scheme, quantize_reference

Implementation: TypeAlias = Callable[[NDArray[np.float32]], Any]
Build: TypeAlias = Callable[[Scheme], Implementation]

_BUILDERS: dict[str, Build] = {}


def register_implementation(name: str, build: Build) -> None:
    """Makes `name` known to `diff`. ValueError where it is taken by another builder."""
    if _BUILDERS.get(name, build) is not build:
        raise ValueError(f"name: {name!r} is already registered for a different implementation")
    _BUILDERS[name] = build


def implementation_names() -> tuple[str, ...]:
    """Registered names, in order of registration."""
    return tuple(_BUILDERS)


def implementation(which: Implementation | str, scheme: Scheme) -> tuple[str, Implementation]:
    """(name, function) of a registered name or a callable; ValueError names the nearest known ones, and says where an
    implementation does not have the scheme."""
    if callable(which):
        return str(getattr(which, "__name__", type(which).__name__)), which
    if which not in _BUILDERS:
        near = get_close_matches(str(which), _BUILDERS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"implementation: got {which!r}, accepted: a callable, {', '.join(_BUILDERS)}{hint}")
    return which, _BUILDERS[which](scheme)


def _reference(overflow: Overflow) -> Build:
    def build(scheme: Scheme) -> Implementation:
        if not _is_cast(scheme):
            if overflow is not Overflow.SATURATE:
                raise ValueError(f"implementation: scaled schemes such as {scheme} saturate; use 'reference'")
            return lambda x: quantize_reference(x, scheme)
        element = scheme.element
        nan = NanPolicy.KEEP if element.has_nan else NanPolicy.ZERO
        return lambda x: element.encode(x, overflow=overflow, nan=nan)

    return build


def _is_cast(scheme: Scheme) -> bool:
    return scheme.static == 1.0 and not scheme.stochastic


def _cast_element(scheme: Scheme, library: str) -> Format:
    if not _is_cast(scheme):
        raise ValueError(f"implementation: {library} casts, accepted: a format or 'FORMAT:static=1.0', got {scheme}")
    return scheme.element


def _dtype(library: Any, element: Format) -> Any:
    """The library's type of a format: `float8_e4m3fn`, `bfloat16`, …"""
    names = [{"bf16": "bfloat16", "fp16": "float16"}.get(element.name, f"float{element.bits}_{element.name}")]
    found = next((getattr(library, name) for name in names if hasattr(library, name)), None)
    if found is None:
        raise ValueError(f"implementation: {library.__name__} has no type for {element.name}")
    return found


def _ml_dtypes(scheme: Scheme) -> Implementation:
    element = _cast_element(scheme, "ml_dtypes")
    if element.name == "fp16":
        return lambda x: x.astype(np.float16).view(np.uint16)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError("implementation: ml_dtypes is not installed; pip install 'narrowgauge[oracles]'") from error
    dtype = _dtype(ml_dtypes, element)
    return lambda x: x.astype(dtype).view(np.uint16 if element.bits == 16 else np.uint8)


def _torch(scheme: Scheme) -> Implementation:
    element = _cast_element(scheme, "torch")
    import torch

    dtype = _dtype(torch, element)
    integer = torch.int16 if element.bits == 16 else torch.uint8
    return lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(dtype).view(integer).numpy()


register_implementation("reference", _reference(Overflow.SATURATE))
register_implementation("reference_nonsaturating", _reference(Overflow.NONSATURATING))
register_implementation("ml_dtypes", _ml_dtypes)
register_implementation("torch", _torch)
