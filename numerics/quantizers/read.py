"""Reads what a quantizer returned, in whichever form, into one record; never copies a tensor more than once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import BlockFormat, IntFormat, Scheme
from narrowgauge.formats.tiles import rows_cols, tile_count
from narrowgauge.numerics._arrays import FloatArray, is_tensor
from narrowgauge.numerics.quantizers.grid import per_element, static_factors

NativeArray: TypeAlias = NDArray[Any]

ACCEPTED = (
    "dequantised values, a narrow float array (torch.float8…, ml_dtypes), (codes, scale), (codes, scale, outer), "
    "or an object with .codes and .scale"
)
_OUTPUTS = {
    "float64": (2.0**-53, 0.0, np.inf),
    "float32": (2.0**-24, 2.0**-150, 2.0**128 * (1 - 2.0**-25)),
    "float16": (2.0**-11, 2.0**-25, 65520.0),
    "bfloat16": (2.0**-8, 2.0**-134, 2.0**128 * (1 - 2.0**-9)),
}
"""Of each dtype: unit roundoff, half of the smallest subnormal, and the magnitude that rounding makes infinite."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What came back for a matrix [rows, cols]; everything float64 unless said.

    values: dequantised. elements: the decoded codes, None where only values came. codes: integers as returned, or None.
    factors: scale of each group (or pair), [factor tiles down, across], None where none came. stored: the scales as
    they were returned. unit_roundoff, underflow, overflow: of the dtype in which bare values came, the relative and the
    absolute error of rounding to it and the magnitude that becomes infinite; 0, 0 and infinity for codes with scales.
    """

    values: FloatArray
    elements: FloatArray | None = None
    codes: NativeArray | None = None
    factors: FloatArray | None = None
    stored: NativeArray | None = None
    outer: float = 1.0
    unit_roundoff: float = 0.0
    underflow: float = 0.0
    overflow: float = np.inf


def native_array(x: Any, name: str) -> NativeArray:
    """`x` (tensor, array, nested sequence) as a numpy array in a dtype that holds it exactly; TypeError for complex,
    boolean and non-numeric values."""
    if is_tensor(x):
        dtype = dtype_name(x)
        tensor = x.detach().cpu()
        if tensor.is_complex() or dtype == "bool":
            raise TypeError(f"{name}: got dtype {x.dtype}, accepted: real numbers")
        if tensor.dtype.is_floating_point and dtype not in ("float16", "float32", "float64"):
            tensor = tensor.float()
        result: NativeArray = tensor.numpy()
        return result
    array = np.asarray(x)
    if array.dtype.kind not in "iufV":
        raise TypeError(f"{name}: got dtype {array.dtype}, accepted: real numbers")
    # Kind "V" holds the narrow floats that extend numpy; float32 holds all of them.
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def dtype_name(x: Any) -> str:
    """`float32`, `bfloat16`, `float8_e4m3fn`: the same for torch, numpy and ml_dtypes."""
    dtype = x.dtype if is_tensor(x) else np.asarray(x).dtype
    return str(dtype).removeprefix("torch.")


def code_bits(x: Any, scheme: Scheme) -> NativeArray | None:
    """Integer codes of `x`: an integer array, or the bits of a one-byte float of the element's own type; else None."""
    name = dtype_name(x)
    if name.startswith(("int", "uint")):
        return native_array(x, "codes")
    if not name.endswith(f"_{scheme.element.name}"):
        return None
    return _bytes(x)


def _bytes(x: Any) -> NativeArray:
    """The bits of one-byte floats."""
    if is_tensor(x):
        import torch

        return np.asarray(x.detach().cpu().contiguous().view(torch.uint8).numpy())
    return np.ascontiguousarray(x).view(np.uint8)


def parts_of(result: Any) -> tuple[Any, Any, Any] | None:
    """(codes, scale, outer) of an object or tuple that has them, None for bare values; outer may be None."""
    if isinstance(result, tuple | list) and len(result) in (2, 3) and hasattr(result[0], "dtype"):
        return result[0], result[1], result[2] if len(result) == 3 else None
    if hasattr(result, "codes") and hasattr(result, "scale"):
        return result.codes, result.scale, getattr(result, "outer", None)
    return None


def read(result: Any, scheme: Scheme, shape: tuple[int, ...], mode: str = "auto") -> Reading:
    """`result` for an input of `shape`. mode: `auto`; `values`: a bare array is values whatever its dtype; `codes`: a
    bare array is codes of a scheme whose scale is static. ValueError for other shapes, TypeError for what cannot be
    read."""
    parts = parts_of(result)
    matrix = rows_cols(shape)
    if parts is None:
        if not hasattr(result, "dtype"):
            raise TypeError(f"result: got {type(result).__name__}, accepted: {ACCEPTED}")
        _same_shape(result, shape, "values")
        is_integer = dtype_name(result).startswith(("int", "uint"))
        # One-byte floats of the element's type are codes where a scale is known, and values else.
        is_coded = is_integer or (scheme.static is not None and code_bits(result, scheme) is not None)
        if mode == "codes" or (mode == "auto" and is_coded):
            return _static_codes(result, scheme, matrix)
        values = native_array(result, "values").astype(np.float64).reshape(matrix)
        roundoff, underflow, overflow = _OUTPUTS.get(dtype_name(result), (0.0, 0.0, np.inf))
        return Reading(values, unit_roundoff=roundoff, underflow=underflow, overflow=overflow)
    codes, scale, outer = parts
    _same_shape(codes, shape, "codes")
    bits = code_bits(codes, scheme)
    elements = _elements(codes, bits, scheme).reshape(matrix)
    tensor_scale = _outer(outer)
    stored = _stored(scale, scheme)
    factors = _factors(stored, tensor_scale, scheme, matrix)
    with np.errstate(invalid="ignore", over="ignore"):
        values = elements * per_element(factors, scheme, matrix)
    return Reading(
        values,
        elements,
        None if bits is None else bits.reshape(matrix),
        factors,
        stored,
        tensor_scale,
    )


def _static_codes(result: Any, scheme: Scheme, matrix: tuple[int, int]) -> Reading:
    if scheme.static is None:
        raise TypeError(f"result: got bare codes for {scheme}, accepted: {ACCEPTED}")
    bits = code_bits(result, scheme)
    elements = _elements(result, bits, scheme).reshape(matrix)
    factors = static_factors(scheme.static, scheme, matrix)
    codes = None if bits is None else bits.reshape(matrix)
    return Reading(elements * float(np.float32(scheme.static)), elements, codes, factors)


def _elements(codes: Any, bits: NativeArray | None, scheme: Scheme) -> FloatArray:
    if bits is None:  # codes kept as the numbers that they stand for: integers in floats, float8 widened to bfloat16
        numbers = native_array(codes, "codes").astype(np.float64)
        step = scheme.element.step if isinstance(scheme.element, IntFormat) else 1.0
        return numbers * step
    return np.asarray(scheme.element.decode(bits))


def _stored(scale: Any, scheme: Scheme) -> NativeArray:
    """The scales as returned; those of a block format as codes where they come in the scale's own float type."""
    if isinstance(scheme.format, BlockFormat) and dtype_name(scale).endswith(f"_{scheme.format.scale_format.name}"):
        return _bytes(scale)
    return native_array(scale, "scale")


def read_factors(scale: Any, outer: Any, scheme: Scheme, shape: tuple[int, int]) -> FloatArray:
    """Scales as returned by a quantizer as factors [factor tiles down, across] of a matrix of `shape`."""
    return _factors(_stored(scale, scheme), _outer(outer), scheme, shape)


def _outer(outer: Any) -> float:
    return 1.0 if outer is None else float(native_array(outer, "outer").astype(np.float64).reshape(-1)[0])


def _factors(stored: NativeArray, outer: float, scheme: Scheme, shape: tuple[int, int]) -> FloatArray:
    """[factor tiles down, across] of whatever shape the scale has, as long as there is one for each group."""
    groups, pairs = (
        tuple(tile_count(n, side) for n, side in zip(shape, tile, strict=True))
        for tile in (scheme.tile, scheme.factor_tile)
    )
    fmt = scheme.format
    if stored.dtype.kind in "iu":
        if not isinstance(fmt, BlockFormat):
            raise TypeError(f"scale: got dtype {stored.dtype}, accepted: floats, because {fmt.name} has no scale codes")
        if stored.size != groups[0] * groups[1]:
            raise ValueError(f"scale: got shape {stored.shape}, accepted: one for each of {groups} groups")
        # Decoded in the format's own float32 product with the tensor's scale.
        return fmt.scales(stored.reshape(groups), np.float32(outer)).astype(np.float64)
    wide = stored.astype(np.float64) * outer
    for tiles in (groups, pairs):
        if wide.size == tiles[0] * tiles[1]:
            if tiles == groups != pairs:
                raise ValueError(f"scale: got shape {stored.shape}, accepted: one for each of {pairs} pairs")
            return wide.reshape(tiles)
    raise ValueError(f"scale: got shape {stored.shape}, accepted: one for each of {groups} groups")


def _same_shape(result: Any, shape: tuple[int, ...], what: str) -> None:
    got = tuple(int(n) for n in result.shape)
    if got != shape:
        raise ValueError(f"{what}: got shape {got}, accepted: the shape of the input, {shape}")
