"""An operand of a checked GEMM, [rows, K]: what it is worth in float64, and how it is handed to a function."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import BlockFormat, Quantized, Scheme, get, parse, quantize_reference
from narrowgauge.formats.format import Codes
from narrowgauge.formats.tiles import spread
from narrowgauge.numerics._arrays import FloatArray

PLAIN_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Dtypes of operands without scale → the format of the same name."""
_SHORT = {short: name for name, short in PLAIN_DTYPES.items()}

Spec = Scheme | str
"""A scheme, or one of the plain dtypes."""


def operand_spec(scheme: Scheme | str, name: str) -> Spec:
    """A plain dtype's full name for `float32`, `fp32` and so on, else the parsed scheme. TypeError names the argument;
    ValueError says what a scheme cannot mean."""
    if isinstance(scheme, str):
        plain = _SHORT.get(scheme, scheme)
        if plain in PLAIN_DTYPES:
            return plain
    elif not isinstance(scheme, Scheme):
        raise TypeError(f"{name}: got {type(scheme).__name__}, accepted: a scheme or {', '.join(PLAIN_DTYPES)}")
    return parse(scheme)


@dataclass(frozen=True)
class GemmOperand:
    """values = elements · grid, all float64 [rows, K].

    elements: decoded codes (a plain operand: the values). grid: the scale of each element (1). codes, scale, outer: of
    the scheme, absent for a plain operand.
    """

    spec: Spec
    elements: FloatArray
    grid: FloatArray
    codes: Codes | None = None
    scale: NDArray[Any] | None = None
    outer: NDArray[np.float32] | None = None

    @cached_property
    def values(self) -> FloatArray:
        """What the operand is worth."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.elements * self.grid)

    @property
    def factors(self) -> FloatArray:
        """The scales as factors, [tiles down, tiles across]; [1, 1] of a plain operand."""
        if not isinstance(self.spec, Scheme) or self.scale is None:
            return np.ones((1, 1))
        return scale_factors(self.spec, self.scale, self.outer)

    def spread(self, factors: FloatArray) -> FloatArray:
        """Factors of tiles as factors of elements."""
        if not isinstance(self.spec, Scheme):
            return np.asarray(np.broadcast_to(factors, self.elements.shape))
        rows, cols = self.elements.shape
        return np.asarray(spread(factors, self.spec.factor_tile, (rows, cols)))


def scale_factors(spec: Scheme, scale: NDArray[Any], outer: NDArray[np.float32] | None) -> FloatArray:
    """Stored scales of a matrix as float64 factors."""
    fmt = spec.format
    factors = fmt.scales(scale, 1.0 if outer is None else outer) if isinstance(fmt, BlockFormat) else scale
    return np.asarray(factors, dtype=np.float64)


def make_operand(x: NDArray[np.floating], spec: Spec, seed: int = 0) -> GemmOperand:
    """`x` [rows, K] quantised by the reference (stochastic schemes with `seed`), or rounded to a plain dtype."""
    if isinstance(spec, str):
        values = get(PLAIN_DTYPES[spec]).round(x, overflow="propagate")
        return GemmOperand(spec, values, np.ones((1, 1)))
    q = quantize_reference(np.asarray(x, dtype=np.float32), spec, seed=seed)
    return coded_operand(spec, q)


def coded_operand(spec: Scheme, q: Quantized) -> GemmOperand:
    """The operand of codes and scales that exist already."""
    elements = spec.element.decode(q.codes)
    rows, cols = elements.shape
    grid = spread(scale_factors(spec, q.scale, q.outer), spec.factor_tile, (rows, cols))
    return GemmOperand(spec, elements, np.asarray(grid), q.codes, q.scale, q.outer)


@dataclass(frozen=True)
class Handover:
    """How operands reach the checked function.

    coded: codes and scales, else values. transposed: "n" or "t" for a, then for b; a is [M, K] for "n" and [K, M] for
    "t", b is [K, N] for "n" and [N, K] for "t". as_tensor: torch tensors on `device`, else numpy arrays.
    """

    coded: bool
    transposed: str = "nt"
    as_tensor: bool = False
    device: Any = None

    def arguments(self, a: GemmOperand, b: GemmOperand, bias: NDArray[np.float32] | None, layout: str) -> list[Any]:
        """Positional arguments; layout: "contiguous", "turned" (column-major) or "strided" (every second element)."""
        turn = self.transposed[0] == "t", self.transposed[1] == "n"
        given = [*self._operand(a, turn[0], layout), *self._operand(b, turn[1], layout)]
        return given if bias is None else [*given, self._home(bias, "float32")]

    def _operand(self, x: GemmOperand, turn: bool, layout: str) -> list[Any]:
        if not self.coded or not isinstance(x.spec, Scheme) or x.codes is None or x.scale is None:
            dtype = x.spec if isinstance(x.spec, str) else "float32"
            return [self._arranged(x.values.T if turn else x.values, layout, np.nan, dtype)]
        codes = x.codes.T if turn else x.codes
        largest = int(x.spec.element.encode(x.spec.element.max))
        scale = x.factors.astype(np.float32) if x.spec.two_level else x.scale
        return [self._arranged(codes, layout, largest, None), self._arranged(scale, layout, 1, None)]

    def _arranged(self, x: NDArray[Any], layout: str, fill: float, dtype: str | None) -> Any:
        if layout == "turned":
            return self._home(np.ascontiguousarray(x.T), dtype).T
        if layout == "strided":
            buffer = np.full((2 * x.shape[0], 2 * x.shape[1]), fill, dtype=x.dtype)
            buffer[::2, ::2] = x
            return self._home(buffer, dtype)[::2, ::2]
        return self._home(np.ascontiguousarray(x), dtype)

    def _home(self, x: NDArray[Any], dtype: str | None) -> Any:
        """`x` as an array or tensor of its own memory. numpy lacks bfloat16: float32 holds its values. torch can do
        little with unsigned integers beyond 8 bits: signed ones hold their bits."""
        if not self.as_tensor:
            return np.array(x, dtype=x.dtype if dtype is None else "float32" if dtype == "bfloat16" else dtype)
        import torch

        wide = x.dtype.kind == "u" and x.dtype.itemsize > 1
        tensor = torch.from_numpy(np.array(x.view(f"i{x.dtype.itemsize}") if wide else x)).to(self.device)
        return tensor if dtype is None else tensor.to(getattr(torch, dtype))


def as_plain(x: GemmOperand) -> GemmOperand:
    """The dequantised operand, as a plain one of float32 values."""
    if isinstance(x.spec, str):
        return x
    with np.errstate(over="ignore", invalid="ignore"):
        values = x.values.astype(np.float32).astype(np.float64)
    return GemmOperand("float32", values, np.ones((1, 1)))
