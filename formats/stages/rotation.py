"""`hN`, `rhtN`, `rhtNfresh`: a Hadamard rotation along the reduction axis, both operands of a product alike.

hN has no signs; rhtN one fixed vector of N random signs (NVFP4, arXiv 2509.25149); rhtNfresh new ones for each product
of each call (arXiv 2502.20586). The operand stays rotated: nothing undoes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.hadamard import FIXED_SIGNS, check_block, rotate, signs
from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.stages.stage import Draw, Float32Array, Memo, Stage

_TEXT = re.compile(r"(?P<kind>h|rht)(?P<size>\d+)(?P<fresh>fresh)?")


@dataclass(frozen=True)
class Rotation(Stage):
    """size: elements of a block. kind: "none", "fixed" or "fresh" signs."""

    size: int
    kind: str = "none"

    order = 10
    linear = True
    EXAMPLE = "rht16"

    def __post_init__(self) -> None:
        check_block(self.size)
        if self.kind not in ("none", "fixed", "fresh"):
            raise ValueError(f"kind: got {self.kind!r}, accepted: none, fixed, fresh")

    @property
    def random(self) -> bool:
        """Whether the signs are drawn anew."""
        return self.kind == "fresh"

    @classmethod
    def from_option(cls, text: str) -> Self | None:
        match = _TEXT.fullmatch(text)
        if match is None or (match["kind"] == "h" and match["fresh"]):
            return None
        return cls(int(match["size"]), "none" if match["kind"] == "h" else "fresh" if match["fresh"] else "fixed")

    def __str__(self) -> str:
        return f"h{self.size}" if self.kind == "none" else f"rht{self.size}" + ("fresh" if self.random else "")

    def stream(self, draw: Draw) -> tuple[int, int] | None:
        """(seed, offset) of the signs, None without signs."""
        return None if self.kind == "none" else (draw.seed, draw.shared) if self.random else FIXED_SIGNS

    def before(self, x: Float32Array, scheme: Scheme, draw: Draw) -> tuple[Float32Array, Memo]:
        stream = self.stream(draw)
        return rotate(x, self.size, None if stream is None else signs(self.size, *stream)), (1.0, 0.0)

    def after(self, values: NDArray[np.float64], memo: Memo) -> NDArray[np.float64]:
        return values
