"""Several tensors as one sample: checked once, then read in float64 chunks scaled by the largest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 1 << 22  # elements in float64 at a time


@dataclass(frozen=True)
class Pooled:
    """Flat pieces of real, finite numbers on any device; `amax` is the largest magnitude, or 0."""

    pieces: tuple[Tensor, ...]
    count: int
    amax: float

    def magnitudes(self) -> Iterator[Tensor]:
        """|x| / amax in float64, piece by piece and in chunks; no power of them overflows. Needs amax > 0."""
        for piece in self.pieces:
            for chunk in piece.split(_CHUNK):
                yield chunk.double().abs() / self.amax

    def moments(self) -> tuple[float, float]:
        """The means of |x| / amax and of its square. Needs amax > 0."""
        sums = [(float(y.sum()), float(y.square().sum())) for y in self.magnitudes()]
        return math.fsum(s for s, _ in sums) / self.count, math.fsum(s for _, s in sums) / self.count


def pool(named: Iterable[tuple[str, Tensor]]) -> Pooled:
    """Pool tensors of any real dtypes and shapes, which may be empty.

    TypeError for booleans and complex numbers; ValueError for NaN, infinities and tensors without memory
    (meta), both with the tensor's name.
    """
    pieces: list[Tensor] = []
    amax = 0.0
    for name, tensor in named:
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise TypeError(f"{name}: got dtype {tensor.dtype}, accepted: real numbers")
        if tensor.is_meta:
            raise ValueError(f"{name}: got a tensor on the meta device, accepted: one that has values")
        flat = tensor.detach().reshape(-1)
        if flat.numel() == 0:
            continue
        largest = [float(chunk.double().abs().max()) for chunk in flat.split(_CHUNK)]
        if not all(map(math.isfinite, largest)):
            bad = sum(int((~chunk.double().isfinite()).sum()) for chunk in flat.split(_CHUNK))
            raise ValueError(f"{name}: got {bad} NaN or infinite of {flat.numel()} values, accepted: finite")
        pieces.append(flat)
        amax = max(amax, *largest)
    return Pooled(tuple(pieces), sum(piece.numel() for piece in pieces), amax)
