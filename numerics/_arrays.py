"""Tensors and arrays as numpy, without importing torch: whoever passes a tensor has imported it already."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch

    Operand: TypeAlias = ArrayLike | torch.Tensor
else:
    Operand: TypeAlias = Any

FloatArray: TypeAlias = NDArray[np.float64]


def is_tensor(x: object) -> TypeGuard[torch.Tensor]:
    """True for a `torch.Tensor`."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def as_float64(x: Operand, name: str) -> FloatArray:
    """`x` (tensor, array or nested sequence of real numbers; any shape, device or float type) as a float64
    array.

    Raises TypeError, naming the argument, for complex, boolean and non-numeric values.
    """
    if is_tensor(x):
        if x.is_complex() or str(x.dtype) == "torch.bool":
            raise TypeError(f"{name}: got dtype {x.dtype}, accepted: real numbers")
        result: FloatArray = x.detach().cpu().double().numpy()
        return result
    array = np.asarray(x)
    # Kind "V" holds the narrow floats that extend numpy.
    if array.dtype.kind not in "iufV":
        raise TypeError(f"{name}: got dtype {array.dtype}, accepted: real numbers")
    return array.astype(np.float64)


def place(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of element number `flat` of an array of this shape, as ints that print as such."""
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def float64_pair(actual: Operand, reference: Operand, reference_name: str) -> tuple[FloatArray, FloatArray]:
    """Both operands as float64. Raises ValueError unless they have one shape: nothing is broadcast."""
    first, second = as_float64(actual, "actual"), as_float64(reference, reference_name)
    if first.shape != second.shape:
        raise ValueError(f"actual: got shape {first.shape}, accepted: the shape of {reference_name}, {second.shape}")
    return first, second
