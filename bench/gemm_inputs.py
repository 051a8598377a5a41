"""Operands of the suite `gemm`: normal numbers, their codes, and the float64 values that a result is held to.

New numbers are drawn into the same memory, without a trace in the tensors' version counters. A function that remembers
its operands by identity, address or version, or returns a constant, has then the wrong result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from narrowgauge.bench.model_shapes import Problem
from narrowgauge.bench.poison import Guard
from narrowgauge.kernels import QuantizedTensor, quantize

KEPT_BYTES = 1 << 30


class Operands:
    """What a result is held to: values of a [M, K] and b [N, K] in float64, and their product."""

    def __init__(self, a: Callable[[], Tensor], b: Callable[[], Tensor]) -> None:
        self._a, self._b = a, b
        self._product: Tensor | None = None

    @property
    def product(self) -> Tensor:
        """a · bᵀ [M, N] in float64; kept for the next who asks, unless it is large."""
        if self._product is not None:
            return self._product
        product = self._a().double() @ self._b().double().t()
        self._product = product if product.nbytes <= KEPT_BYTES else None
        return product

    @cached_property
    def norms(self) -> tuple[Tensor, Tensor]:
        """Euclidean norms of the rows of a [M] and of b [N], in float64."""
        return self._a().double().norm(dim=1), self._b().double().norm(dim=1)


class Inputs:
    """x [M, K] and w [N, K] of `dtype`, standard normal, w divided by √K; codes of both under any scheme.

    guard: finds out who writes an operand before the numbers are drawn anew.
    """

    def __init__(self, problem: Problem, device: torch.device | str, dtype: torch.dtype, seed: int) -> None:
        self.problem, self.device = problem, torch.device(device)
        self.x = torch.empty((problem.m, problem.k), dtype=dtype, device=device)
        self.w = torch.empty((problem.n, problem.k), dtype=dtype, device=device)
        self._coded: dict[tuple[str, str], QuantizedTensor] = {}
        self._factors: dict[tuple[str, str], Tensor] = {}
        self._operands: dict[tuple[str | None, str | None], Operands] = {}
        self.guard = Guard()
        self.refill(seed)

    def refill(self, seed: int) -> None:
        """Draws all numbers anew, into the memory that holds the old ones."""
        self._operands.clear()
        self.guard = Guard()
        generator = torch.Generator(self.device).manual_seed(seed)
        for target, factor in ((self.x, 1.0), (self.w, self.problem.k**-0.5)):
            # By way of .data, which leaves the version counter of the tensor as it was.
            target.data.copy_(torch.randn(target.shape, generator=generator, device=self.device) * factor)
        for (side, scheme), old in self._coded.items():
            new = quantize(self._plain(side), scheme)
            for target, source in ((old.codes, new.codes), (old.scale, new.scale), (old.outer, new.outer)):
                target.data.copy_(source)
            if (side, scheme) in self._factors:
                self._factors[side, scheme].data.copy_(new.factors())

    def coded(self, side: str, scheme: str) -> QuantizedTensor:
        """ "x" or "w" under a scheme; the same memory until the end."""
        key = side, scheme
        if key not in self._coded:
            self._coded[key] = quantize(self._plain(side), scheme)
        return self._coded[key]

    def pair(self, side: str, scheme: str) -> tuple[Tensor, Tensor]:
        """Codes and scale as `scaled_gemm` takes them: of two-level formats, the float32 factors of the tiles."""
        q = self.coded(side, scheme)
        if not q.scheme.two_level:
            return q.codes, q.scale
        if (side, scheme) not in self._factors:
            self._factors[side, scheme] = q.factors()
        return q.codes, self._factors[side, scheme]

    def operands(self, x_scheme: str | None = None, w_scheme: str | None = None) -> Operands:
        """The values of x and w, of the codes where a scheme is given; of the numbers that are there now."""
        key = x_scheme, w_scheme
        if key not in self._operands:
            self._operands[key] = Operands(lambda: self._values("x", x_scheme), lambda: self._values("w", w_scheme))
        return self._operands[key]

    def _plain(self, side: str) -> Tensor:
        return self.x if side == "x" else self.w

    def _values(self, side: str, scheme: str | None) -> Tensor:
        return self._plain(side) if scheme is None else self.coded(side, scheme).dequantize(torch.float32)
