"""The quantizer of the sweeps: the kernels where they serve a scheme, the exact definition where they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from narrowgauge.formats import Scheme
from narrowgauge.kernels import quantize
from narrowgauge.numerics.sweeps.measure import quantize_exactly
from narrowgauge.numerics.tensors.named import Float32Array


def quantize_by_kernel(x: Float32Array, scheme: str | Scheme, seed: int) -> tuple[Any, Any, Any]:
    """(codes, scale, outer) of the operator on the CPU, as users call it."""
    q = quantize(torch.from_numpy(np.ascontiguousarray(x)), scheme, seed)
    return q.codes.numpy(), q.scale.numpy(), q.outer.numpy()


class FastestQuantizer:
    """Callable as `sweep` wants it: (x float32, scheme, seed) -> (codes, scale, outer) as arrays.

    Kernel and definition give the same bits (`narrowgauge doctor` checks it), so the choice is one of speed alone;
    `summary` tells which served what. exact: the definition for everything.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self.exact = exact
        self.refused: dict[str, str] = {}
        self.served: list[str] = []

    def __call__(self, x: Float32Array, scheme: str, seed: int) -> tuple[Any, Any, Any]:
        if not self.exact and self._is_served(scheme):
            return quantize_by_kernel(x, scheme, seed)
        return quantize_exactly(x, scheme, seed)

    def _is_served(self, scheme: str) -> bool:
        """Whether a kernel takes the scheme, asked with one element the first time."""
        if scheme in self.served:
            return True
        if scheme in self.refused:
            return False
        try:
            quantize(torch.zeros(1, 1), scheme, 0)
        except ValueError as error:
            self.refused[scheme] = str(error)
            return False
        self.served.append(scheme)
        return True

    def summary(self) -> str:
        """Which implementation quantised what, in a sentence."""
        if self.exact:
            return "Quantised by the numpy definition."
        parts = []
        if self.served:
            parts.append(f"by the torch kernels: {', '.join(self.served)}")
        if self.refused:
            parts.append(f"by the numpy definition, because no kernel serves them: {', '.join(self.refused)}")
        return f"Quantised {'; '.join(parts)}." if parts else "Nothing was quantised."
