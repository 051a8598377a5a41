"""Block formats: elements that share a scale which is itself stored in a narrow format.

    MX (OCP v1.0)      32 elements, an E8M0 power of two
    BFP, MSFP, HBFP    integer elements and a power of two of any exponent width, in runs or tiles
    NVFP4              16 E2M1 elements (or a 16x16 tile), an E4M3 scale, and one float32 scale for the whole tensor
                       (`two_level`): outer = amax(tensor) / (6 · 448), block scale = E4M3(amax(block) / (6 · outer)),
                       rounded to nearest (rule `amax`) or up, so that nothing clips (rule `rceil`)
    SMX, MX9/6/4       16 elements, an E8M0 power of two, and one more exponent bit for every pair (`micro_size`):
                       factor of a pair = 2^(E - tau), tau = min(E - E_pair, 2^micro_bits - 1)

The code of a power of two counts from its format's bias. A block of zeros has the smallest one, a block with a NaN or
an infinity the NaN code. The exponent bits of the pairs lie above the scale's own bits, first pair lowest.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.format import Codes, Format, smallest_unsigned
from narrowgauge.formats.rounding import FloatArray, Rounding
from narrowgauge.formats.scaling import (
    SMALLEST_OUTER_SCALE,
    Float32Array,
    ScaleRule,
    amax_scale,
    scale_exponent,
)
from narrowgauge.formats.tiles import Tile, rows_cols, spread, tile_text


@dataclass(frozen=True, kw_only=True)
class BlockFormat:
    """`block_rows` x `block_size` elements share one `scale_format` scale; None for a whole axis.

    Its codes live in two arrays, so it is not a `Format`: `scale_codes` gives the scale of each block,
    `element` the codes inside. bits_per_value counts the element and its share of the block's scale.
    """

    name: str
    element: Format
    scale_format: FloatFormat
    block_size: int | None
    rule: ScaleRule
    two_level: bool = False
    block_rows: int | None = 1
    micro_size: int = 0
    micro_bits: int = 0

    def __post_init__(self) -> None:
        for name, side in (("block_size", self.block_size), ("block_rows", self.block_rows)):
            if side is not None and side < 1:
                raise ValueError(f"{name}: {self.name} needs at least 1, got {side}")
        fmt = self.scale_format
        if fmt.nan_code is None:
            raise ValueError(f"scale_format: {self.name} marks bad blocks with NaN, which {fmt.name} does not have")
        if not self.two_level and (fmt.has_zero or fmt.mantissa_bits or fmt.is_signed or fmt.nan_codes != 1):
            raise ValueError(
                f"scale_format: a one-level block format has powers of two such as e8m0fnu for scales, got {fmt.name}"
            )
        if self.two_level and (self.rule not in TWO_LEVEL_RULES or fmt.bits > 8):
            raise ValueError(
                f"rule: two-level formats take 'amax' or 'rceil' and scales of 8 bits, {self.name} has "
                f"{self.rule.value!r} and {fmt.name}"
            )
        if not self.two_level and not self.rule.power_of_two:
            raise ValueError(f"rule: {self.name} takes a power-of-two rule, got {self.rule.value!r}")
        self._check_micro()

    def _check_micro(self) -> None:
        if not self.micro_size and not self.micro_bits:
            return
        if self.two_level or self.block_rows != 1 or self.block_size is None or self.micro_bits < 1:
            raise ValueError(f"micro_size: {self.name} needs one-level blocks 1xG and micro_bits of at least 1")
        if self.micro_size < 1 or self.block_size % self.micro_size:
            raise ValueError(f"micro_size: got {self.micro_size}, accepted: a divisor of block_size {self.block_size}")
        if self.scale_bits > 32:
            raise ValueError(f"micro_bits: {self.name} has scale codes of {self.scale_bits} bits, at most 32 fit")

    @property
    def tile(self) -> Tile:
        """Rows and columns of a block."""
        return self.block_rows, self.block_size

    @property
    def factor_tile(self) -> Tile:
        """Rows and columns that share one factor: the block's, or those of a pair."""
        return (1, self.micro_size) if self.micro_size else self.tile

    @property
    def granularity(self) -> str:
        """The block as text, `1x32`."""
        return tile_text(self.tile)

    @property
    def micro_count(self) -> int:
        """Pairs (or what shares `micro_bits`) of a block; 0 where there are none."""
        return (self.block_size or 0) // self.micro_size if self.micro_size else 0

    @property
    def scale_bits(self) -> int:
        """Width of the stored scale of one block, the bits of its pairs included."""
        return self.scale_format.bits + self.micro_count * self.micro_bits

    @property
    def scale_dtype(self) -> np.dtype[np.integer]:
        """Unsigned dtype of the scale codes."""
        return smallest_unsigned(self.scale_bits)

    @property
    def nan_scale_code(self) -> int:
        """The scale code of a block with a NaN or an infinity."""
        code = self.scale_format.nan_code
        assert code is not None  # see __post_init__
        return code

    @property
    def bits_per_value(self) -> float:
        """Storage per value in bits; scales of whole axes and of whole tensors are left out."""
        if None in self.tile:
            return self.element.bits
        return self.element.bits + self.scale_bits / prod(side or 1 for side in self.tile)

    @property
    def bits(self) -> int:
        """Width of one element code."""
        return self.element.bits

    @property
    def max(self) -> float:
        """Largest finite value: the largest element times the largest scale (per-tensor scale 1)."""
        return self.element.max * self.scale_format.max

    @property
    def exponent_range(self) -> tuple[int, int]:
        """Exponents of one-level scales: what the scale format holds, and float32 as a factor (2^-127 to 2^127)."""
        bias = self.scale_format.bias
        return max(-127, -bias), min(127, 2**self.scale_format.bits - 1 - self.scale_format.nan_codes - bias)

    @property
    def outer_divisor(self) -> float:
        """amax of a tensor over its outer scale."""
        return self.element.amax_target * self.scale_format.max

    def outer_scale(self, amax: ArrayLike) -> Float32Array:
        """The per-tensor float32 scale of a two-level format from the tensor's amax (1 for a zero tensor)."""
        return amax_scale(amax, self.outer_divisor, SMALLEST_OUTER_SCALE)

    def scale_codes(
        self,
        amax: ArrayLike,
        rule: ScaleRule | None = None,
        outer: ArrayLike = 1.0,
        micro_amax: ArrayLike | None = None,
    ) -> Codes:
        """Scale code of each block from its amax (float32); NaN code where amax is NaN or infinite.

        micro_amax: for formats with `micro_size`, float32 [..., ceil(K / micro_size)] where amax is [..., blocks].
        """
        a = np.asarray(amax, dtype=np.float32)
        finite = np.isfinite(a)
        safe = np.where(finite, a, np.float32(0))
        chosen = rule or self.rule
        nan = self.nan_scale_code
        if self.two_level:
            divisor = np.float32(self.element.amax_target) * np.asarray(outer, dtype=np.float32)
            rounding = Rounding.UP if chosen is ScaleRule.RCEIL else Rounding.NEAREST_EVEN
            codes = self.scale_format.encode((safe / divisor).astype(np.float32), rounding)
            return np.where(finite, codes, nan).astype(self.scale_dtype)
        exponent = self._exponents(safe, chosen)
        codes = exponent.astype(np.int64) + self.scale_format.bias
        if self.micro_size:
            codes |= self._micro_codes(exponent, micro_amax, chosen)
        return np.where(finite, codes, nan).astype(self.scale_dtype)

    def _exponents(self, amax: Float32Array, rule: ScaleRule) -> NDArray[np.int32]:
        lowest, highest = self.exponent_range
        return scale_exponent(amax, self.element, rule, lowest, highest, zero=lowest)

    def _micro_codes(
        self, exponent: NDArray[np.int32], micro_amax: ArrayLike | None, rule: ScaleRule
    ) -> NDArray[np.int64]:
        """The bits of the pairs of each block, in place above the scale's own."""
        if micro_amax is None:
            raise ValueError(f"micro_amax: {self.name} has an exponent for every {self.micro_size} values, got None")
        m = np.asarray(micro_amax, dtype=np.float32)
        m = np.where(np.isfinite(m), m, np.float32(0))
        count = self.micro_count
        padded = np.zeros((*exponent.shape, count), dtype=np.float32)
        padded.reshape(*exponent.shape[:-1], exponent.shape[-1] * count)[..., : m.shape[-1]] = m
        tau = exponent[..., None] - self._exponents(padded, rule)
        tau = np.clip(tau, 0, 2**self.micro_bits - 1).astype(np.int64)
        shifts = self.scale_format.bits + self.micro_bits * np.arange(count)
        return np.asarray((tau << shifts).sum(axis=-1))

    def scales(self, codes: ArrayLike, outer: ArrayLike = 1.0) -> Float32Array:
        """Float32 factors: the decoded scale of each block times the outer one; with `micro_size`, of each pair of the
        blocks, [..., blocks · micro_count]."""
        c = np.asarray(codes)
        if not self.micro_size:
            return self.scale_format.decode(c).astype(np.float32) * np.asarray(outer, dtype=np.float32)
        wide = c.astype(np.int64)
        own = self.scale_format.decode(wide & (2**self.scale_format.bits - 1))
        shifts = self.scale_format.bits + self.micro_bits * np.arange(self.micro_count)
        tau = (wide[..., None] >> shifts) & (2**self.micro_bits - 1)
        # Never below 2^-127, the smallest power of two that kernels multiply by.
        factors = np.maximum(np.ldexp(own[..., None], -tau.astype(np.int32)), 2.0**-127)
        return factors.reshape(*c.shape[:-1], c.shape[-1] * self.micro_count).astype(np.float32)

    def decode(self, codes: ArrayLike, scale_codes: ArrayLike, outer: ArrayLike = 1.0) -> FloatArray:
        """Values (float64) of element codes [..., rows, K] with scale codes [..., ceil(rows / block_rows),
        ceil(K / block_size)]; of formats with one-row blocks any number of leading axes."""
        elements = self.element.decode(codes)
        scales: NDArray[np.float64] = self.scales(scale_codes, outer).astype(np.float64)
        grid = spread(scales.reshape(rows_cols(scales.shape)), self.factor_tile, rows_cols(elements.shape))
        return elements * grid.reshape(elements.shape)


TWO_LEVEL_RULES = (ScaleRule.AMAX, ScaleRule.RCEIL)


def power_of_two_scale(exponent_bits: int) -> FloatFormat:
    """Powers of two with an exponent of so many bits, one code of them NaN; E8M0 for 8. 2 to 10 bits."""
    if not 2 <= exponent_bits <= 10:
        raise ValueError(f"exponent_bits: got {exponent_bits}, accepted: 2 to 10")
    name = "e8m0fnu" if exponent_bits == 8 else f"e{exponent_bits}m0fnu"
    return FloatFormat(
        name=name, exponent_bits=exponent_bits, mantissa_bits=0, is_signed=False, subnormals=False, nan_codes=1
    )
