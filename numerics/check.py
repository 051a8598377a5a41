"""Assertions for codes and results, and the rounding-error bound that a GEMM is held to.

The assertions raise AssertionError with a text that says how many elements fail, which one is first or worst,
and both of its values; a bad argument (a negative bound, complex numbers) is a ValueError or TypeError
instead.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from narrowgauge.numerics._arrays import FloatArray, Operand, as_float64, is_tensor, place

FLOAT32_UNIT_ROUNDOFF = 2.0**-24
"""The largest relative error of one rounding to nearest in float32."""


class _Bits(NamedTuple):
    dtype: str
    bits: NDArray[np.unsignedinteger[Any]]
    values: NDArray[Any]
    is_float: bool


def _bits(x: Operand, name: str) -> _Bits:
    """The operand's dtype name, its elements' bits as unsigned integers, and the values to print."""
    if is_tensor(x):
        import torch

        dtype = str(x.dtype).removeprefix("torch.")
        if x.is_complex():
            raise TypeError(f"{name}: got dtype {dtype}, accepted: integers, booleans and real floats")
        tensor = x.detach().cpu().contiguous()
        unsigned = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}[tensor.itemsize]
        is_float = tensor.dtype.is_floating_point
        values = tensor.double().numpy() if is_float else tensor.numpy()
        return _Bits(dtype, tensor.view(unsigned).numpy(), values, is_float)
    array = np.asarray(x)
    if array.dtype.kind not in "biufV" or array.itemsize not in (1, 2, 4, 8):
        raise TypeError(f"{name}: got dtype {array.dtype}, accepted: integers, booleans and real floats")
    is_float = array.dtype.kind in "fV"  # "V": the narrow floats that extend numpy
    values = array.astype(np.float64) if is_float else array
    bits = np.ascontiguousarray(array).view(f"u{array.itemsize}").reshape(array.shape)
    return _Bits(array.dtype.name, bits, values, is_float)


def _prefix(name: str) -> str:
    return f"{name}: " if name else ""


def _same_shape(actual: NDArray[Any], expected: NDArray[Any], name: str) -> None:
    if actual.shape != expected.shape:
        raise AssertionError(f"{_prefix(name)}actual has shape {actual.shape}, expected {expected.shape}")


def assert_bitwise(actual: Operand, expected: Operand, *, name: str = "", nan_equal: bool = False) -> None:
    """Every element of `actual` has the bits of `expected`.

    Operands: tensors or arrays of integer codes, booleans or real floats, of one shape and one dtype (a torch
    and a numpy or ml_dtypes dtype of the same name are the same). -0.0 differs from 0.0, and a NaN from a NaN
    with another payload or sign, unless `nan_equal`, by which any NaN equals any NaN.

    AssertionError names the number of differing elements and the first one, in hexadecimal and decimal.
    """
    a, e = _bits(actual, "actual"), _bits(expected, "expected")
    _same_shape(a.bits, e.bits, name)
    if a.dtype != e.dtype:
        raise AssertionError(f"{_prefix(name)}actual has dtype {a.dtype}, expected {e.dtype}")
    differs = a.bits != e.bits
    if nan_equal and a.is_float:
        differs &= ~(np.isnan(a.values) & np.isnan(e.values))
    count = int(np.count_nonzero(differs))
    if count == 0:
        return
    first = place(int(np.argmax(differs)), differs.shape)
    digits = 2 * a.bits.itemsize
    shown = [f"0x{int(x.bits[first]):0{digits}x} ({x.values[first].item()!r})" for x in (a, e)]
    raise AssertionError(
        f"{_prefix(name)}{count} of {differs.size} elements differ; "
        f"first at {first}: actual {shown[0]}, expected {shown[1]} [{a.dtype}]"
    )


def assert_within(
    actual: Operand, expected: Operand, bound: Operand, *, name: str = "", nan_equal: bool = False
) -> None:
    """|actual - expected| <= bound for every element, evaluated in float64.

    Operands: tensors or arrays of real numbers of one shape; `bound` is non-negative (0 asks for equality)
    and broadcasts to that shape. Equal infinities agree. A NaN is outside every bound, except that with
    `nan_equal` it agrees with a NaN.

    AssertionError names the number of elements outside and the worst one: the largest error in units of its
    bound. ValueError for a bound that is negative, NaN, or of a shape that does not broadcast.
    """
    a, e = as_float64(actual, "actual"), as_float64(expected, "expected")
    _same_shape(a, e, name)
    limit = as_float64(bound, "bound")
    if not np.all(limit >= 0.0):
        raise ValueError(f"bound: got a value of {limit[~(limit >= 0.0)][0]}, accepted: numbers >= 0")
    try:
        limit = np.broadcast_to(limit, a.shape)
    except ValueError:
        raise ValueError(f"bound: got shape {limit.shape}, accepted: one that broadcasts to {a.shape}") from None
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(a - e)
    agrees = a == e
    if nan_equal:
        agrees |= np.isnan(a) & np.isnan(e)
    error = np.where(agrees, 0.0, error)
    outside = ~(error <= limit)
    count = int(np.count_nonzero(outside))
    if count:
        raise AssertionError(_prefix(name) + _describe_worst(a, e, error, limit, outside, count))


def _describe_worst(
    a: FloatArray, e: FloatArray, error: FloatArray, limit: FloatArray, outside: NDArray[np.bool_], count: int
) -> str:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # A NaN error, and any error where none is allowed, is infinitely far out.
        severity = np.where(outside, np.nan_to_num(error / limit, nan=np.inf, posinf=np.inf), -1.0)
    worst = place(int(np.argmax(severity)), a.shape)
    return (
        f"{count} of {a.size} elements are out of bound; worst at {worst}: actual {a[worst].item()!r}, "
        f"expected {e[worst].item()!r}, error {error[worst]:.6g} = {severity[worst]:.4g} x bound "
        f"{limit[worst]:.6g}"
    )


def gamma(n: int, unit_roundoff: float = FLOAT32_UNIT_ROUNDOFF) -> float:
    """Higham's γ_n = n·u / (1 - n·u), which bounds the relative error of n successive roundings of unit
    roundoff u.

    ValueError for a negative n, and for n·u >= 1, where no such bound exists.
    """
    if n < 0:
        raise ValueError(f"n: got {n}, accepted: a number of roundings >= 0")
    product = n * unit_roundoff
    if not 0.0 <= product < 1.0:
        raise ValueError(f"n: got {n} roundings of unit roundoff {unit_roundoff:g}, accepted: 0 <= n·u < 1")
    return product / (1.0 - product)


def sum_roundings(k: int, chunk: int | None) -> int:
    """How many roundings a term of a sum of k goes through at most, with partial sums of `chunk` terms or without."""
    return k if chunk is None else min(k, chunk + math.ceil(k / chunk))


def gemm_bound(
    k: int,
    magnitude: Operand,
    *,
    unit_roundoff: float = FLOAT32_UNIT_ROUNDOFF,
    chunk: int | None = None,
    extra_roundings: int = 0,
    out_unit_roundoff: float = 0.0,
) -> FloatArray:
    """Deterministic elementwise bound on |Ĉ - A·B| for a product accumulated in finite precision.

        bound = [(1 + γ_n)(1 + u_out) - 1] · |A|·|B|,     n = K + extra_roundings

    It holds for every order of summation, and is meant to be compared with the float64 product of the
    *dequantized* operands. Underflow, of products below the accumulator's smallest normal number, is not
    covered.

    k: length of the contraction, K >= 0. magnitude: |A|·|B| in float64, of the output's shape.
    unit_roundoff: u of the accumulator; double it for one that truncates.
    chunk: with partial sums of `chunk` products that are then added up, n = chunk + ceil(K / chunk) at most.
    extra_roundings: roundings after the sum in the accumulator's precision, such as multiplications by
    scales.
    out_unit_roundoff: u of the output's dtype where it is narrower than the accumulator (bfloat16: 2**-8).

    Returns float64 of the magnitude's shape. ValueError for a negative k, a chunk < 1, a negative magnitude,
    and where n·u >= 1.
    """
    if k < 0:
        raise ValueError(f"k: got {k}, accepted: a contraction length >= 0")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: got {chunk}, accepted: a number of products >= 1, or None")
    size = as_float64(magnitude, "magnitude")
    if np.any(size < 0.0):
        raise ValueError(f"magnitude: got a value of {size.min()}, accepted: |A|·|B|, which is >= 0")
    n = sum_roundings(k, chunk)
    # Expanded, because (1 + γ)(1 + u) - 1 loses the digits of a small γ.
    relative = gamma(n + extra_roundings, unit_roundoff)
    return size * (relative + out_unit_roundoff + relative * out_unit_roundoff)
