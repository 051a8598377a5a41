"""Named inputs that quantizers get wrong, and seeded distributions; all float32.

Each case is one line of `hard_cases`, and its name is what a failing test prints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    """The names that `distribution` knows; most take parameters, as in `gg0.5`."""

    NORMAL = "normal"
    LAPLACE = "laplace"
    STUDENT_T3 = "student_t3"
    LOG_UNIFORM = "log_uniform"
    UNIFORM = "uniform"
    STUDENT_T = "student_t"
    GG = "gg"
    LOGNORMAL = "lognormal"
    OUTLIERS = "outliers"
    CHANNELS = "channels"
    ROWS = "rows"


_Draws: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class _Parameter:
    """A number after a distribution's name: above 0 and at most `most`."""

    name: str
    default: float
    most: float = math.inf


@dataclass(frozen=True)
class _Family:
    """`sample(rng, shape, *parameters)`; `meaning` is for tables."""

    meaning: str
    sample: Callable[..., _Draws]
    parameters: tuple[_Parameter, ...] = ()


def _log_uniform(rng: np.random.Generator, size: tuple[int, ...]) -> _Draws:
    return _signs(rng, size) * np.exp2(rng.uniform(-16.0, 16.0, size))


def _signs(rng: np.random.Generator, size: tuple[int, ...]) -> _Draws:
    return np.asarray(rng.choice((-1.0, 1.0), size), dtype=np.float64)


def _generalized_gaussian(rng: np.random.Generator, size: tuple[int, ...], shape: float) -> _Draws:
    """|x| = α·G^(1/ν) with G ~ Gamma(1/ν), and α such that the variance is 1.

    Gamma(1/ν) has the law of Gamma(1 + 1/ν)·U^ν, hence x = α·V·G'^(1/ν) with V uniform in (-1, 1). In log
    space: at ν = 0.13 the power alone reaches 1e9.
    """
    inverse = 1.0 / shape
    log_scale = 0.5 * (math.lgamma(inverse) - math.lgamma(3.0 * inverse))
    gamma = rng.gamma(1.0 + inverse, size=size)
    return np.asarray(rng.uniform(-1.0, 1.0, size) * np.exp(log_scale + inverse * np.log(gamma)))


def _lognormal(rng: np.random.Generator, size: tuple[int, ...], sigma: float) -> _Draws:
    return _signs(rng, size) * rng.lognormal(0.0, sigma, size)


def _outliers(rng: np.random.Generator, size: tuple[int, ...], share: float, factor: float) -> _Draws:
    x = rng.standard_normal(size)
    return np.asarray(np.where(rng.random(size) < share, x * factor, x))


def _channels(rng: np.random.Generator, size: tuple[int, ...], share: float, factor: float) -> _Draws:
    x = rng.standard_normal(size)
    columns = size[-1]
    chosen = rng.permutation(columns)[: max(1, round(share * columns))]
    x[..., chosen] *= factor
    return x


def _rows(rng: np.random.Generator, size: tuple[int, ...], sigma: float) -> _Draws:
    x = rng.standard_normal(size)
    return np.asarray(x * rng.lognormal(0.0, sigma, (*size[:-1], 1)))


_SHAPE, _SIGMA = _Parameter("shape", 0.5), _Parameter("sigma", 1.0)
_FACTOR = _Parameter("factor", 50.0)

_FAMILIES: Mapping[str, _Family] = MappingProxyType(
    {
        "normal": _Family("N(0, 1)", lambda rng, size: rng.standard_normal(size)),
        "laplace": _Family("Laplace of scale 1", lambda rng, size: rng.laplace(0.0, 1.0, size)),
        "uniform": _Family("uniform in [-1, 1)", lambda rng, size: rng.uniform(-1.0, 1.0, size)),
        "log_uniform": _Family("random sign, log2|x| uniform in [-16, 16)", _log_uniform),
        "student_t": _Family(
            "Student's t (kurtosis infinite at 4 degrees of freedom and fewer)",
            lambda rng, size, df: rng.standard_t(df, size),
            (_Parameter("degrees of freedom", 3.0),),
        ),
        "gg": _Family("generalized Gaussian, variance 1 (shape 1 Laplace, 2 Gauss)", _generalized_gaussian, (_SHAPE,)),
        "lognormal": _Family("random sign, ln|x| normal with deviation sigma", _lognormal, (_SIGMA,)),
        "outliers": _Family(
            "N(0, 1), a share of the elements times a factor", _outliers, (_Parameter("share", 0.001, 1.0), _FACTOR)
        ),
        "channels": _Family(
            "N(0, 1), a share of the columns (at least one) times a factor",
            _channels,
            (_Parameter("share", 1 / 128, 1.0), _FACTOR),
        ),
        "rows": _Family("N(0, 1), each row times e^(sigma·N)", _rows, (_Parameter("sigma", 2.0),)),
    }
)
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?"
_TEXT = re.compile(rf"(?P<family>[a-z_]+?)(?P<parameters>{_NUMBER}(?:x{_NUMBER})*)?")


def distribution_help() -> dict[str, str]:
    """Text form -> meaning and defaults, of every distribution: what a list of them shows."""
    table = {}
    for name, family in _FAMILIES.items():
        form = name + "x".join(f"[{parameter.name}]" for parameter in family.parameters)
        defaults = ", ".join(f"{parameter.name} {parameter.default:g}" for parameter in family.parameters)
        table[form] = family.meaning + (f"; by default {defaults}" if defaults else "")
    return table


def _parse(text: str) -> tuple[_Family, tuple[float, ...]]:
    """The family and all of its parameters that `text` names."""
    match = _TEXT.fullmatch(text)
    if match is None or match["family"] not in _FAMILIES:
        choice(Distribution, text, "name")  # raises: whatever it accepts is in _FAMILIES
        raise AssertionError(text)
    family = _FAMILIES[match["family"]]
    given = [float(number) for number in (match["parameters"] or "").split("x") if number]
    if len(given) > len(family.parameters):
        accepted = ", ".join(parameter.name for parameter in family.parameters) or "none"
        raise ValueError(f"name: got {text!r} with {len(given)} parameters, accepted: {accepted}")
    for parameter, value in zip(family.parameters, given, strict=False):
        if not 0.0 < value <= parameter.most or math.isinf(value):
            limit = "" if math.isinf(parameter.most) else f" and <= {parameter.most:g}"
            raise ValueError(f"name: got {parameter.name} {value:g} in {text!r}, accepted: finite numbers > 0{limit}")
    return family, (*given, *(parameter.default for parameter in family.parameters[len(given) :]))


def distribution(name: Distribution | str, size: int | tuple[int, ...], rng: np.random.Generator) -> Float32Array:
    """`size` draws (float32) from a distribution about zero, named as `family[parameter[xparameter]]`.

    normal: N(0, 1). laplace: scale 1. uniform: in [-1, 1). log_uniform: random sign, log2|x| uniform in
    [-16, 16). student_t3: three degrees of freedom (infinite kurtosis); any other number likewise. gg0.5:
    generalized Gaussian of that shape, variance 1 (gg1 is Laplace, gg2 Gauss). lognormal2: random sign,
    ln|x| of deviation 2. outliers0.001x50: N(0, 1) with that share of the elements 50 times as large.
    channels0.01x50: the same for that share of the columns (the last axis; at least one). rows2: N(0, 1),
    each row times e^(2·N(0, 1)). `distribution_help` lists the defaults of what is left out.

    ValueError for an unknown name, naming the nearest, and for a parameter out of range; TypeError for an
    `rng` that is not a `numpy.random.Generator`.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: got {type(rng).__name__}, accepted: numpy.random.Generator (default_rng(seed))")
    family, parameters = _parse(str(name))
    shape = (size,) if isinstance(size, int | np.integer) else tuple(size)
    draws = np.asarray(family.sample(rng, shape or (1,), *parameters)).reshape(shape)
    limit = float(_INFO.max)  # a heavy tail may leave the range of float32
    return np.clip(draws, -limit, limit).astype(np.float32)
