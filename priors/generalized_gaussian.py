"""The generalized Gaussian distribution about zero: Laplace, Gauss and everything between and beyond.

With shape ν and scale α (the spelling of `scipy.stats.gennorm(ν, scale=α)`):

    f(x) = ν / (2 α Γ(1/ν)) · exp(-(|x|/α)^ν)          ν = 1 Laplace, ν = 2 Gauss, ν -> inf uniform on [-α, α]
    E|x|^p = α^p Γ((p+1)/ν) / Γ(1/ν)                   P(|x| <= t) = P(1/ν, (t/α)^ν), P incomplete gamma ratio

BackSlash (arXiv 2504.16968) writes γ = 1/α.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special
from torch import Tensor

from narrowgauge.priors.gamma import standard_gamma

FloatArray: TypeAlias = NDArray[np.float64]

# Below this, P(a, g) is g^a / Γ(1 + a) to more than double precision; g itself may have underflowed.
_TINY_POWER = 1e-20

# Elements drawn at a time, which bounds the float64 scratch memory; a sample depends on it.
_CHUNK = 1 << 20


def _positive(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {type(value).__name__}, accepted: a real number > 0")
    if not (value > 0.0 and math.isfinite(value)):
        raise ValueError(f"{name}: got {value}, accepted: finite numbers > 0")
    return float(value)


def _exp(exponent: float) -> float:
    """e to a power; infinity where Python's own raises."""
    with np.errstate(over="ignore"):
        return float(np.exp(exponent))


def _default_device(generator: torch.Generator | None) -> torch.device:
    return torch.get_default_device() if generator is None else generator.device


@dataclass(frozen=True, slots=True)
class GeneralizedGaussian:
    """The distribution with this shape (ν) and scale (α), and mean zero.

    Functions of x or of a probability take any array-like (scalars, numpy, CPU tensors without gradient),
    compute in float64 and return numpy. TypeError or ValueError, naming the field, for anything but finite
    numbers > 0.
    """

    shape: float
    scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _positive(self.shape, "shape"))
        object.__setattr__(self, "scale", _positive(self.scale, "scale"))

    @classmethod
    def from_std(cls, shape: float, std: float) -> Self:
        """The distribution of this shape whose standard deviation is `std`: α = std·sqrt(Γ(1/ν)/Γ(3/ν)).

        ValueError where the scale leaves the range of float64 (at std 1: shapes below 0.008).
        """
        inverse = 1.0 / _positive(shape, "shape")
        scale = _positive(std, "std") * _exp(0.5 * (math.lgamma(inverse) - math.lgamma(3.0 * inverse)))
        if scale == 0.0:
            raise ValueError(f"shape: got {shape}, whose scale at std {std} is below the range of float64")
        return cls(shape, scale)

    def log_pdf(self, x: ArrayLike) -> FloatArray:
        """Natural logarithm of the density at x."""
        constant = math.log(self.shape / (2.0 * self.scale)) - math.lgamma(1.0 / self.shape)
        return constant - self._power(np.abs(np.asarray(x, dtype=np.float64)) / self.scale)

    def pdf(self, x: ArrayLike) -> FloatArray:
        """Density at x."""
        with np.errstate(under="ignore"):
            return np.asarray(np.exp(self.log_pdf(x)))

    def cdf(self, x: ArrayLike) -> FloatArray:
        """P(X <= x), accurate relative to itself in the lower tail."""
        signed = np.asarray(x, dtype=np.float64) / self.scale
        distance = np.abs(signed)
        power = self._power(distance)
        inverse = 1.0 / self.shape
        outside = np.where(
            power < _TINY_POWER,
            1.0 - distance / math.gamma(1.0 + inverse),
            special.gammaincc(inverse, power),
        )
        return np.asarray(np.where(signed < 0.0, 0.5 * outside, 1.0 - 0.5 * outside))

    def quantile(self, p: ArrayLike) -> FloatArray:
        """The x with cdf(x) = p, for p in [0, 1]; -inf and inf at the ends. ValueError for p outside."""
        probability = np.asarray(p, dtype=np.float64)
        if np.any((probability < 0.0) | (probability > 1.0)):
            raise ValueError(f"p: got {p!r}, accepted: probabilities in [0, 1]")
        inverse = 1.0 / self.shape
        inside = np.abs(2.0 * probability - 1.0)
        outside = 2.0 * np.minimum(probability, 1.0 - probability)
        power = special.gammainccinv(inverse, outside)
        distance = np.where(power < _TINY_POWER, inside * math.gamma(1.0 + inverse), power**inverse)
        return np.asarray(np.sign(probability - 0.5) * self.scale * distance)

    def _power(self, distance: FloatArray) -> FloatArray:
        """(|x|/α)^ν; zero and infinity are right answers at the ends."""
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(distance**self.shape)

    def moment(self, p: float) -> float:
        """E|x|^p; infinity where it exceeds float64. ValueError for p <= -1, where it does not exist."""
        if not p > -1.0:
            raise ValueError(f"p: got {p}, accepted: numbers > -1")
        inverse = 1.0 / self.shape
        log_moment = math.lgamma((p + 1.0) * inverse) - math.lgamma(inverse)
        return _exp(p * math.log(self.scale) + log_moment)

    @property
    def std(self) -> float:
        """Standard deviation, α·sqrt(Γ(3/ν)/Γ(1/ν))."""
        inverse = 1.0 / self.shape
        return self.scale * _exp(0.5 * (math.lgamma(3.0 * inverse) - math.lgamma(inverse)))

    @property
    def var(self) -> float:
        """Variance."""
        return self.moment(2.0)

    @property
    def kurtosis(self) -> float:
        """E x⁴ / (E x²)²: 3 for the Gaussian (not the excess)."""
        inverse = 1.0 / self.shape
        return _exp(math.lgamma(5.0 * inverse) + math.lgamma(inverse) - 2.0 * math.lgamma(3.0 * inverse))

    @property
    def entropy(self) -> float:
        """Differential entropy in bits; quantized with a fine step Δ, less log2(Δ)."""
        inverse = 1.0 / self.shape
        nats = inverse + math.log(2.0 * self.scale / self.shape) + math.lgamma(inverse)
        return nats / math.log(2.0)

    def sample(
        self,
        size: int | Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Independent draws as a tensor of this size; `dtype` (torch's default if None) is any float type.

        |x| = α·G^(1/ν) with G ~ Gamma(1/ν); since Gamma(1/ν) has the law of Gamma(1 + 1/ν)·U^ν, a draw is
        α·V·G'^(1/ν) with V uniform in (-1, 1) and G' ~ Gamma(1 + 1/ν), which is exact for every shape.
        Computed in float64 and in log space, where small shapes do not overflow, and rounded to `dtype` at
        the end.

        The numbers are drawn on the generator's device and then moved, so that a CPU generator gives every
        device the same values. Without a generator, the device's global one is used; without a device, the
        generator's, else torch's default.
        """
        shape = (size,) if isinstance(size, int) else tuple(size)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise TypeError(f"dtype: got {dtype}, accepted: floating-point types")
        target = torch.device(device) if device is not None else _default_device(generator)
        source = target if generator is None else generator.device
        draws = torch.empty(math.prod(shape), dtype=dtype, device=target)
        for chunk in draws.split(_CHUNK):
            chunk.copy_(self._draw(chunk.numel(), generator, source))
        return draws.reshape(shape)

    def _draw(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        inverse = 1.0 / self.shape
        gamma = standard_gamma(1.0 + inverse, count, generator=generator, device=device)
        uniform = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        # Shifted by half a step of the 53-bit uniforms, which makes the law symmetric and free of zeros.
        signed = 2.0 * uniform - (1.0 - 2.0**-53)
        return signed * (math.log(self.scale) + inverse * gamma.log()).exp()
