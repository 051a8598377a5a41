"""The names of the scale rules; `formats/scaling.py` has their definitions."""

from __future__ import annotations

from enum import StrEnum


class ScaleRule(StrEnum):
    """How the magnitudes of a group become its scale; see the table in `narrowgauge.formats.scaling`."""

    AMAX = "amax"
    FLOOR = "floor"
    CEIL = "ceil"
    RCEIL = "rceil"
    EVEN = "even"
    POW2 = "pow2"
    STATIC = "static"
    PERCENTILE = "percentile"
    MSE = "mse"
    SAWB = "sawb"

    @property
    def power_of_two(self) -> bool:
        """Whether every scale is a power of two."""
        return self in _POWER_OF_TWO

    @property
    def searches(self) -> bool:
        """Whether the rule looks at more of a group than its largest magnitude."""
        return self in (ScaleRule.PERCENTILE, ScaleRule.MSE, ScaleRule.SAWB)

    @property
    def takes_value(self) -> bool:
        """Whether the rule is written with a number, as `static=0.5`."""
        return self in (ScaleRule.STATIC, ScaleRule.PERCENTILE)


_POWER_OF_TWO = {ScaleRule.FLOOR, ScaleRule.CEIL, ScaleRule.RCEIL, ScaleRule.EVEN, ScaleRule.POW2}
