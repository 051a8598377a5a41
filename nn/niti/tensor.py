"""`IntTensor`: int8 codes under one exponent, the only numbers NITI knows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BITS = 7
"""Bits of a code's magnitude."""
LARGEST = 127


class IntTensor(NamedTuple):
    """Values codes · 2^exponent. codes: int8, -127 … 127, of any shape. exponent: a Python integer."""

    codes: Tensor
    exponent: int

    def float(self) -> Tensor:
        """The values, float32: for looking at them."""
        return torch.ldexp(self.codes.float(), torch.tensor(self.exponent))


def to_int_tensor(x: Tensor) -> IntTensor:
    """Floating values, rounded to nearest under the smallest exponent that does not clip: how data come in.

    ValueError for values that are not finite.
    """
    largest = float(x.detach().abs().max()) if x.numel() else 0.0
    if not largest < float("inf"):
        raise ValueError(f"x: expected finite values, got {largest} as the largest magnitude")
    exponent = 0
    if largest > 0.0:
        _, top = torch.frexp(torch.tensor(largest, dtype=torch.float64))
        exponent = int(top) - BITS
        exponent += largest / 2.0**exponent > LARGEST
    codes = torch.round(torch.ldexp(x.detach().double(), torch.tensor(-exponent)))
    return IntTensor(codes.to(torch.int8), exponent)
