"""Named inputs that quantizers get wrong, and seeded distributions; all float32.

Each case is one line of `hard_cases`, and its name is what a failing test prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.rounding import choice

Float32Array: TypeAlias = NDArray[np.float32]

_INFO = np.finfo(np.float32)
_FIXED_SEED = 20240229  # the cases are constants: those with random content always draw the same


def _neighbours(centres: NDArray[np.float64]) -> Float32Array:
    """Each centre as float32 with the float32 numbers just below and above it, in both signs."""
    middle = centres.astype(np.float32)
    below, above = np.nextafter(middle, np.float32(-np.inf)), np.nextafter(middle, np.float32(np.inf))
    positive = np.stack([below, middle, above], axis=1).reshape(-1)
    return np.concatenate([positive, -positive])


def _ties() -> NDArray[np.float64]:
    """Midpoints between numbers of 1 to 10 significand bits, with even and odd lower neighbours."""
    points = [
        np.ldexp(lower + 0.5, exponent - bits)
        for bits in range(1, 11)
        for lower in (2 ** (bits - 1), 2 ** (bits - 1) + 1, 2**bits - 2, 2**bits - 1)
        for exponent in (-14, -6, 0, 5, 9)
    ]
    return np.unique(np.array(points, dtype=np.float64))


def _with_special(special: float, shape: tuple[int, ...] = (4, 32)) -> Float32Array:
    """Ordinary numbers with `special` at one place; a scaling group elsewhere must not notice it."""
    x = _gaussian(shape)
    x[1, 5] = special
    return x


def _gaussian(shape: tuple[int, ...]) -> Float32Array:
    return np.random.default_rng(_FIXED_SEED).standard_normal(shape).astype(np.float32)


def _outlier_channel() -> Float32Array:
    x = _gaussian((16, 64))
    x[:, 7] *= 1000.0
    return x


def _mixed_magnitudes() -> Float32Array:
    exponents = np.linspace(-126.0, 127.0, 256).round().astype(np.int32)
    x = np.ldexp(_gaussian((256,)).clip(-1.9, 1.9), exponents).astype(np.float32)
    return np.random.default_rng(_FIXED_SEED).permutation(x).reshape(8, 32)


def _rows_of_different_magnitude() -> Float32Array:
    return _gaussian((5, 33)) * np.array([[1e-30], [1e-3], [0.0], [1.0], [1e30]], dtype=np.float32)


def hard_cases() -> dict[str, Float32Array]:
    """Name -> float32 array (new ones at each call). Of 0 to 2 dimensions, and of sizes that include 0, 1 and
    primes.

    Names that begin with `nan` or `inf`, and `mixed_nan_inf`, hold NaN or infinities; all others are finite.
    """
    tiny, small, huge = _INFO.smallest_subnormal, _INFO.smallest_normal, _INFO.max
    powers = np.ldexp(1.0, np.arange(-126, 127))
    one_special = {
        "nan_one_element": _with_special(np.nan),
        "inf_one_element": _with_special(np.inf),
        "inf_negative": _with_special(-np.inf),
        "nan_all": np.full((3, 32), np.nan, dtype=np.float32),
        "inf_all": np.full((3, 32), np.inf, dtype=np.float32),
        "mixed_nan_inf": np.array([[np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0, tiny, huge]], dtype=np.float32),
    }
    finite = {
        "empty": np.zeros((0,), dtype=np.float32),
        "empty_rows": np.zeros((0, 32), dtype=np.float32),
        "empty_columns": np.zeros((4, 0), dtype=np.float32),
        "scalar": np.array(-1.3, dtype=np.float32),
        "one_element": np.array([[0.7]], dtype=np.float32),
        "zeros": np.zeros((4, 32), dtype=np.float32),
        "signed_zeros": np.array([0.0, -0.0] * 16, dtype=np.float32),
        "single_value": np.full((4, 32), 3.0, dtype=np.float32),
        "single_nonzero": np.eye(1, 64, 17, dtype=np.float32),
        "prime_sized": _gaussian((13, 97)),
        "powers_of_two": np.concatenate([powers, -powers]).astype(np.float32),
        "powers_of_two_neighbours": _neighbours(powers),
        "ties": np.concatenate([_ties(), -_ties()]).astype(np.float32),
        "ties_neighbours": _neighbours(_ties()),
        "integers": np.arange(-512, 513, dtype=np.float32),
        "subnormal": np.ldexp(_gaussian((4, 32)).clip(-0.99, 0.99), -127).astype(np.float32),
        "smallest_numbers": np.array([tiny, -tiny, 2 * tiny, small, -small, small - tiny], dtype=np.float32),
        "huge": np.array([huge, -huge, huge / 2, np.nextafter(huge, np.float32(0.0)), 1e38], dtype=np.float32),
        "huge_beside_tiny": np.array([huge, tiny, -tiny, 1.0, small, -1e-20, 0.0], dtype=np.float32),
        "mixed_magnitudes": _mixed_magnitudes(),
        "rows_of_different_magnitude": _rows_of_different_magnitude(),
        "outlier_channel": _outlier_channel(),
        "positive_only": np.abs(_gaussian((3, 61))),
        "nearly_equal": (1.0 + np.arange(64) * 2.0**-23).astype(np.float32),
    }
    return finite | one_special


class Distribution(StrEnum):
    """The names that `distribution` knows."""

    NORMAL = "normal"
    LAPLACE = "laplace"
    STUDENT_T3 = "student_t3"
    LOG_UNIFORM = "log_uniform"
    UNIFORM = "uniform"


_Sampler: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]


def _log_uniform(rng: np.random.Generator, size: tuple[int, ...]) -> NDArray[np.float64]:
    sign = rng.choice((-1.0, 1.0), size)
    draws: NDArray[np.float64] = sign * np.exp2(rng.uniform(-16.0, 16.0, size))
    return draws


_SAMPLERS: Mapping[Distribution, _Sampler] = MappingProxyType(
    {
        Distribution.NORMAL: lambda rng, size: rng.standard_normal(size),
        Distribution.LAPLACE: lambda rng, size: rng.laplace(0.0, 1.0, size),
        Distribution.STUDENT_T3: lambda rng, size: rng.standard_t(3.0, size),
        Distribution.LOG_UNIFORM: _log_uniform,
        Distribution.UNIFORM: lambda rng, size: rng.uniform(-1.0, 1.0, size),
    }
)


def distribution(name: Distribution | str, size: int | tuple[int, ...], rng: np.random.Generator) -> Float32Array:
    """`size` draws (float32) from a distribution about zero.

    normal: N(0, 1). laplace: scale 1. student_t3: three degrees of freedom (infinite kurtosis). log_uniform:
    random sign, log2|x| uniform in [-16, 16). uniform: in [-1, 1).

    ValueError for an unknown name, naming the nearest; TypeError for an `rng` that is not a
    `numpy.random.Generator`.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: got {type(rng).__name__}, accepted: numpy.random.Generator (default_rng(seed))")
    sampler = _SAMPLERS[choice(Distribution, name, "name")]
    shape = (size,) if isinstance(size, int | np.integer) else tuple(size)
    return sampler(rng, shape).astype(np.float32)
