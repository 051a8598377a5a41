"""Block formats: elements that share a scale which is itself stored in a narrow format (OCP MX v1.0, NVFP4).

MX: 32 elements, E8M0 scale. NVFP4: 16 E2M1 elements, E4M3 scale, and one float32 scale for the whole tensor
(`two_level`): outer = amax(tensor) / (6 · 448), block scale = E4M3(amax(block) / (6 · outer)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.format import Codes, Format
from narrowgauge.formats.rounding import FloatArray
from narrowgauge.formats.scaling import (
    SMALLEST_OUTER_SCALE,
    Float32Array,
    ScaleRule,
    amax_scale,
    scale_exponent,
)


@dataclass(frozen=True, kw_only=True)
class BlockFormat:
    """`block_size` elements along the last axis share one `scale_format` scale.

    Its codes live in two arrays, so it is not a `Format`: `scale_codes` gives the scale of each block,
    `element` the codes inside. bits_per_value counts the element and its share of the block's scale.
    """

    name: str
    element: Format
    scale_format: Format
    block_size: int
    rule: ScaleRule
    two_level: bool = False

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"block_size: {self.name} needs at least 1, got {self.block_size}")
        fmt = self.scale_format
        if fmt.nan_code is None:
            raise ValueError(f"scale_format: {self.name} marks bad blocks with NaN, which {fmt.name} does not have")
        if not self.two_level and (fmt.has_zero or fmt.bits != 8 or fmt.min != 2.0**-127):
            raise ValueError(f"scale_format: a one-level block format has e8m0fnu scales, got {fmt.name}")
        if self.two_level != (self.rule is ScaleRule.AMAX) or self.rule is ScaleRule.STATIC:
            raise ValueError(
                f"rule: two-level formats take 'amax', others a power-of-two rule; {self.name} has {self.rule.value!r}"
            )

    @property
    def bits_per_value(self) -> float:
        """Storage per value in bits, the tensor-wide float32 of a two-level format left out."""
        return self.element.bits + self.scale_format.bits / self.block_size

    @property
    def bits(self) -> int:
        """Width of one element code."""
        return self.element.bits

    @property
    def max(self) -> float:
        """Largest finite value: the largest element times the largest scale (per-tensor scale 1)."""
        return self.element.max * self.scale_format.max

    @property
    def outer_divisor(self) -> float:
        """amax of a tensor over its outer scale."""
        return self.element.max * self.scale_format.max

    def outer_scale(self, amax: ArrayLike) -> Float32Array:
        """The per-tensor float32 scale of a two-level format from the tensor's amax (1 for a zero tensor)."""
        return amax_scale(amax, self.outer_divisor, SMALLEST_OUTER_SCALE)

    def scale_codes(self, amax: ArrayLike, rule: ScaleRule | None = None, outer: ArrayLike = 1.0) -> Codes:
        """Scale code of each block from its amax (float32); NaN code where amax is NaN or infinite."""
        a = np.asarray(amax, dtype=np.float32)
        finite = np.isfinite(a)
        safe = np.where(finite, a, np.float32(0))
        if self.two_level:
            divisor = np.float32(self.element.max) * np.asarray(outer, dtype=np.float32)
            codes = self.scale_format.encode((safe / divisor).astype(np.float32))
        else:
            exponent = scale_exponent(safe, self.element, rule or self.rule, lowest=-127)
            codes = (exponent + 127).astype(self.scale_format.code_dtype)
        nan = self.scale_format.encode(np.nan)
        return np.where(finite, codes, nan).astype(self.scale_format.code_dtype)

    def scales(self, codes: ArrayLike, outer: ArrayLike = 1.0) -> Float32Array:
        """Float32 factor of each block: the decoded scale times the outer one."""
        return self.scale_format.decode(codes).astype(np.float32) * np.asarray(outer, dtype=np.float32)

    def decode(self, codes: ArrayLike, scale_codes: ArrayLike, outer: ArrayLike = 1.0) -> FloatArray:
        """Values (float64) of element codes [..., K] with scale codes [..., ceil(K / block_size)]."""
        elements = self.element.decode(codes)
        scales: NDArray[np.float64] = self.scales(scale_codes, outer).astype(np.float64)
        spread = np.repeat(scales, self.block_size, axis=-1)[..., : elements.shape[-1]]
        return elements * spread
