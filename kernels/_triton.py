"""Triton where there is one. Kernels import `triton`, `tl` and `jit` from here, so that the package also imports on
machines without Triton (macOS, Windows); a kernel launched there fails with a plain error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["HAS_TRITON", "OUT_OF_RESOURCES", "constant", "jit", "tl", "triton"]

try:
    import triton
    import triton.language as tl
    from triton.runtime.errors import OutOfResources, PTXASError

    HAS_TRITON = True
    OUT_OF_RESOURCES: tuple[type[Exception], ...] = (OutOfResources, PTXASError)
except ImportError:  # no Triton wheel for this platform
    triton = None
    tl = None
    HAS_TRITON = False
    OUT_OF_RESOURCES = ()


class _Missing:
    """Stands in for a jit function where Triton is not installed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, grid: object) -> Any:
        raise RuntimeError(f"{self.name}: this Triton kernel cannot run, the package 'triton' is not installed")


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`, or a placeholder that says what is missing when launched."""
    return triton.jit(function) if HAS_TRITON else _Missing(function.__name__)


def constant(value: Any) -> Any:
    """A module constant that kernels may read."""
    return tl.constexpr(value) if HAS_TRITON else value
