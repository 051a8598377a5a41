"""What a check holds a quantizer to, and the form of its verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import Overflow, Scheme
from narrowgauge.formats.format import Codes
from narrowgauge.numerics._arrays import FloatArray

BoolArray: TypeAlias = NDArray[np.bool_]

GIVEN_SLACK, ASSUMED_SLACK = 2.0**-22, 2.0**-21
"""Relative error of y = x / scale in float32: of a scale that came back, and of one that had to be assumed."""
SCALE_TOLERANCE = 2.0**-20
"""Relative error of a scale that is no power of two, and of its product with a value."""


class Contract(StrEnum):
    """How exactly a quantizer is held to the definition."""

    NARROWGAUGE = "narrowgauge"
    NEAREST = "nearest"


class NanRule(StrEnum):
    """What a NaN has to become: NaN (`keep`; not judged in casts to formats without NaN), 0, ±max, or `any`thing."""

    KEEP = "keep"
    ZERO = "zero"
    MAX = "max"
    ANY = "any"


@dataclass(frozen=True)
class Terms:
    """What a check holds a function to. smallest_amax: groups below it may have any scale (guards against 0)."""

    scheme: Scheme
    contract: Contract = Contract.NEAREST
    overflow: Overflow = Overflow.SATURATE
    nan: NanRule = NanRule.KEEP
    smallest_amax: float = 2.0**-100

    @property
    def is_cast(self) -> bool:
        """Whether the scale is given, so that every element stands for itself."""
        return self.scheme.static is not None


@dataclass(frozen=True, eq=False)
class Verdict:
    """Of a matrix [rows, cols]. expected: values, float64 (of several allowed ones the first). factors: of each
    element, float64, to which `expected` belongs. codes: expected codes under the bitwise contract, else None.
    is_wrong, and judged: what was looked at. wrong_scales, expected_scales, scales: of each factor tile."""

    expected: FloatArray
    factors: FloatArray
    codes: Codes | None
    is_wrong: BoolArray
    judged: BoolArray
    wrong_scales: BoolArray
    expected_scales: FloatArray
    scales: FloatArray | None

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.is_wrong.any() and not self.wrong_scales.any()
