"""Fixed point with one exponent a tensor: x ≈ code · 2^exponent, and three published ways to choose the exponent.

Dynamic fixed point (Courbariaux et al., arXiv 1412.7024): the exponent goes up by one where more than a maximum rate
of the values overflows, and down by one where the rate would not exceed it with half the range either. 10 bits for
computations and 12 for parameters, the sign included; rate 1e-4.

DFP-16 (Das et al., arXiv 1802.00930): int16 with exponent = floor(log2 amax) - 14, taken from the tensor itself.
Products are accumulated in int32, which has room for few of them: `int32_chain_length`, and `headroom` to buy more.

Flexpoint 16+5 with Autoflex (Köster et al., arXiv 1711.02213): the exponent of the next tensor is predicted from the
largest magnitudes of the last ones, so that it is known before the tensor is. With N = 16, κ = 2^exponent, Γ the
largest |code| and f the last 16 values of Γ κ,

    χ = α (max f + β std f + γ κ)          κ ← 2^(ceil(log2 χ) - N + 1)          α = 2, β = 3, γ = 100

An overflow (Γ >= 2^15 - 1) forgets the history and counts as 2 Γ. β, γ, the window and the handling of overflow are
those of the authors' GPU code; it has no α but rounds the exponent such that half of the codes stay free, as α = 2
does. The paper leaves open which 32 exponents five bits name: here `lowest_exponent` … + 31, by default -31 … 0 (the
code clamps to about the same).

Everything is state that is handed in and out: nothing here remembers a tensor. NaN and infinities are errors, because
integers cannot hold them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.integers import IntFormat
from narrowgauge.formats.quantizer import supported_array
from narrowgauge.formats.rounding import FloatArray, Rounding

INT32_LARGEST = 2**31 - 1
FLEX_BITS = 16
EXPONENT_CODES = 32
"""Exponents that five bits name."""
INITIAL_TRIES = 10


@dataclass(frozen=True)
class SharedExponent:
    """codes: integers, the shape of x; exponent: that of the whole tensor. x ≈ codes · 2^exponent."""

    codes: NDArray[np.integer]
    exponent: int

    @property
    def largest_code(self) -> int:
        """max |code|, 0 for an empty tensor."""
        return int(np.abs(self.codes.astype(np.int64)).max(initial=0))

    def dequantize(self) -> FloatArray:
        """codes · 2^exponent, float64."""
        return np.asarray(np.ldexp(self.codes.astype(np.float64), self.exponent))


def quantize_to_exponent(
    x: ArrayLike,
    exponent: int,
    bits: int = 16,
    rounding: Rounding | str | None = None,
    random_bits: ArrayLike | None = None,
) -> SharedExponent:
    """Rounds a float16/32/64 array of any shape to multiples of 2^exponent and clamps the codes to ±(2^(bits - 1) - 1).

    bits: 2 to 32, the sign included. rounding, random_bits: as in `Format.encode` (to nearest, ties to even). Raises
    TypeError for other dtypes, ValueError for NaN, infinities and other widths.
    """
    fmt = IntFormat(width=bits)
    scaled = np.ldexp(_finite_array(x), -exponent)
    return SharedExponent(fmt.encode(scaled, rounding, random_bits=random_bits), exponent)


def _finite_array(x: ArrayLike) -> FloatArray:
    array = supported_array(x).astype(np.float64)
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(
            f"x: {bad} of {array.size} values are NaN or infinite, accepted: finite values (no code is NaN)"
        )
    return array


@dataclass(frozen=True)
class OverflowCount:
    """Of so many values, how many reached the largest code, and how many would with half the range."""

    values: int = 0
    overflows: int = 0
    overflows_at_half: int = 0

    def __add__(self, other: OverflowCount) -> OverflowCount:
        return OverflowCount(
            self.values + other.values,
            self.overflows + other.overflows,
            self.overflows_at_half + other.overflows_at_half,
        )


@dataclass(frozen=True)
class DynamicFixedPoint:
    """The exponent of one kind of tensor (a layer's weights, its gradients, …) under the overflow rule.

    `quantize` uses the exponent as it is; `update` gives the controller for the next tensors. The rule looks at many
    tensors at once where their counts are added: `controller.adjusted(sum((controller.count(x) for x in …), …))`.
    """

    bits: int = 10
    exponent: int = 0
    max_overflow_rate: float = 1e-4

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ValueError(f"bits: got {self.bits}, accepted: 2 to 32, the sign included")
        if not 0 <= self.max_overflow_rate < 1:
            raise ValueError(f"max_overflow_rate: got {self.max_overflow_rate}, accepted: 0 to below 1")

    @property
    def largest_code(self) -> int:
        """2^(bits - 1) - 1."""
        return int(2 ** (self.bits - 1) - 1)

    def quantize(
        self, x: ArrayLike, rounding: Rounding | str | None = None, random_bits: ArrayLike | None = None
    ) -> SharedExponent:
        """`quantize_to_exponent` with this width and exponent."""
        return quantize_to_exponent(x, self.exponent, self.bits, rounding, random_bits)

    def count(self, x: ArrayLike) -> OverflowCount:
        """The overflows of `x`, counted as in the authors' code on the rounded values: |code| at least the largest
        code, or at least half of it."""
        magnitude = np.abs(self.quantize(x).codes.astype(np.int64))
        return OverflowCount(
            magnitude.size,
            int((magnitude >= self.largest_code).sum()),
            int((2 * magnitude >= self.largest_code).sum()),
        )

    def adjusted(self, count: OverflowCount) -> DynamicFixedPoint:
        """Twice the range where the rate is above the maximum, half of it where half would not be; unchanged where
        nothing was counted."""
        if count.values == 0:
            return self
        limit = self.max_overflow_rate * count.values
        step = 1 if count.overflows > limit else 0 if count.overflows_at_half > limit else -1
        return replace(self, exponent=self.exponent + step)

    def update(self, x: ArrayLike) -> DynamicFixedPoint:
        """`adjusted(count(x))`."""
        return self.adjusted(self.count(x))


def quantize_dfp16(x: ArrayLike, headroom: int = 0) -> SharedExponent:
    """DFP-16: int16 codes with the exponent of the tensor's largest magnitude, floor(log2 amax) - 14 + headroom.

    headroom: bits that stay free, 0 to 14. The largest magnitude is below 2^15 in units of the exponent, so that only
    its rounding can reach the clamp at 32767. A tensor of zeros has exponent 0. Raises as `quantize_to_exponent`.
    """
    if not 0 <= headroom <= 14:
        raise ValueError(f"headroom: got {headroom}, accepted: 0 to 14 of 15 bits")
    amax = float(np.abs(_finite_array(x)).max(initial=0.0))
    exponent = math.frexp(amax)[1] - 1 - 14 + headroom if amax else 0
    return quantize_to_exponent(x, exponent)


def int32_chain_length(largest_a: int, largest_b: int) -> int:
    """How many products of codes of at most these magnitudes an int32 accumulator holds for certain.

    (2^31 - 1) div (largest_a · largest_b): 2 for full int16 codes; after so many the sum has to move to float32. With
    h and k bits of headroom it is at least 2^(h + k). 2^31 - 1 where one of them is 0. ValueError below 0.
    """
    if largest_a < 0 or largest_b < 0:
        raise ValueError(f"largest: got {largest_a} and {largest_b}, accepted: magnitudes of codes, 0 or more")
    return INT32_LARGEST // max(largest_a * largest_b, 1)


@dataclass(frozen=True)
class Autoflex:
    """The exponent of a Flexpoint tensor, and the history that predicts the next one.

    history: the last `window` largest magnitudes, in the units of x. `quantize` uses the exponent as it is; `update`,
    given the tensor that came of it, returns the state for the next one.
    """

    exponent: int
    history: tuple[float, ...] = ()
    alpha: float = 2.0
    beta: float = 3.0
    gamma: float = 100.0
    window: int = 16
    lowest_exponent: int = -31

    def __post_init__(self) -> None:
        if self.window < 1 or len(self.history) > self.window:
            raise ValueError(
                f"window: got {self.window} with {len(self.history)} values, accepted: at least 1 and these"
            )
        if self.alpha <= 0 or self.beta < 0 or self.gamma <= 0:
            raise ValueError(
                f"alpha, beta, gamma: got {self.alpha}, {self.beta}, {self.gamma}, "
                "accepted: positive, 0 or more, positive"
            )
        if self.exponent != self._clamped(self.exponent):
            raise ValueError(
                f"exponent: got {self.exponent}, accepted: {self.lowest_exponent} to "
                f"{self.lowest_exponent + EXPONENT_CODES - 1} (five bits)"
            )

    def quantize(self, x: ArrayLike) -> SharedExponent:
        """16-bit codes at this exponent; what exceeds them is clamped, and `update` sees it."""
        return quantize_to_exponent(x, self.exponent, FLEX_BITS)

    def update(self, tensor: SharedExponent) -> Autoflex:
        """The state after `tensor`, which must have this exponent (else ValueError)."""
        if tensor.exponent != self.exponent:
            raise ValueError(f"tensor: got exponent {tensor.exponent}, accepted: that of this state, {self.exponent}")
        largest = tensor.largest_code
        overflow = largest >= 2 ** (FLEX_BITS - 1) - 1
        kept: Sequence[float] = () if overflow else self.history
        unit = 2.0**self.exponent
        history = (*kept, (2 if overflow else 1) * largest * unit)[-self.window :]
        predicted = self.alpha * (max(history) + self.beta * float(np.std(history)) + self.gamma * unit)
        return replace(self, exponent=self._clamped(_ceil_log2(predicted) - FLEX_BITS + 1), history=history)

    def initialized(self, x: ArrayLike) -> Autoflex:
        """The state whose exponent fits `x`, found as in the paper by quantising again and again: 2^7 coarser after an
        overflow, else finer by the unused bits, until the codes fill 15 bits or enough of them are known to jump. After
        10 tries (a tensor of zeros) the exponent is 0. The history is empty."""
        state = replace(self, history=())
        half = FLEX_BITS // 2 - 1
        for _ in range(INITIAL_TRIES):
            largest = state.quantize(x).largest_code
            if largest >= 2 ** (FLEX_BITS - 1) - 1:
                step, done = half, False
            else:
                step = largest.bit_length() - (FLEX_BITS - 1) if largest else 1 - (FLEX_BITS - 1)
                done = largest >= 2 ** (half - 2)
            moved = replace(state, exponent=self._clamped(state.exponent + step))
            if done or (largest and moved == state):
                return moved
            state = moved
        return replace(state, exponent=self._clamped(0))

    def _clamped(self, exponent: int) -> int:
        return min(max(exponent, self.lowest_exponent), self.lowest_exponent + EXPONENT_CODES - 1)


def _ceil_log2(value: float) -> int:
    """ceil(log2 value) of a positive number, exactly."""
    fraction, exponent = math.frexp(value)
    return exponent - 1 if fraction == 0.5 else exponent
