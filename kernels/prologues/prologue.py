"""What a prologue is: a function of rows that runs in front of an encode, in float32, one rounding per operation.

Every device computes it with the same operations in the same order, without fused multiply-adds; sums are of integers.
So its bits are equal everywhere, and those of the codes after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prologue:
    """A function of x [rows, K] and perhaps of `other` [rows, K] and `weight`.

    define: the definition, numpy float32: (x, other, weight, eps) -> [rows, K filled up to whole blocks].
    exact: the mathematical function, float64, of the same arguments; `define` comes near it.
    kind: the name by which Triton's device code knows it. block: columns come in whole blocks of so many.
    adds: x + other in the dtype of x comes first, takes the place of x, and is what `values` are. gated: the result is
    multiplied by `other`. weighted: what `weight` is, "gain" [K] or "signs" [K] or [block]; "" takes none.
    whole_rows: a value depends on its whole row.
    activation: torch, in place: (x flat float32, scratch float32 [3, elements]), for functions of single numbers.
    transform: torch, in place: (x [rows, K filled up], weight, eps, K, scratch [3, elements]), for others.
    """

    name: str
    formula: str
    kind: str
    define: Callable[[Float32Array, Float32Array | None, Float32Array | None, float], Float32Array]
    exact: Callable[[Float64Array, Float64Array | None, Float64Array | None, float], Float64Array]
    block: int = 1
    adds: bool = False
    gated: bool = False
    weighted: str = ""
    whole_rows: bool = False
    activation: Callable[[Tensor, Tensor], None] | None = None
    transform: Callable[[Tensor, Tensor | None, float, int, Tensor], None] | None = None

    @property
    def takes_other(self) -> bool:
        """Whether `other` must be given."""
        return self.adds or self.gated

    def width(self, columns: int) -> int:
        """Columns of the result."""
        return -(-columns // self.block) * self.block
