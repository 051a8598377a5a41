"""The scalar formats that the tests of every family run over."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import CodebookFormat, FloatFormat, Format, IntFormat

REGISTERED = [name for name in formats.names() if getattr(formats.get(name), "bits", 0) <= 16]
REGISTERED = [name for name in REGISTERED if isinstance(formats.get(name), Format)]
BY_PATTERN = ["q3.4", "q0.7", "rf8b12", "rf8b-3", "binary6p3se", "binary5p2sf", "binary8p3ue", "binary8p8uf"]
UNSIGNED = FloatFormat(
    name="unsigned_inf", exponent_bits=4, mantissa_bits=2, bias=7, is_signed=False, has_infinity=True
)
NO_ZERO = FloatFormat(
    name="no_zero", exponent_bits=3, mantissa_bits=2, bias=2, is_signed=False, subnormals=False, nan_codes=1
)
UNUSUAL = [
    UNSIGNED,
    NO_ZERO,
    FloatFormat(name="coarse", exponent_bits=3, mantissa_bits=2, bias=-20),
    FloatFormat(name="two_nans", exponent_bits=4, mantissa_bits=3, bias=7, nan_codes=2),
    IntFormat(name="uint3", width=3, is_signed=False),
    IntFormat(name="int5_full", width=5, restricted=False, fraction_bits=9),
    CodebookFormat(name="shuffled", table=(3.0, -0.1, 7.0, 0.0, 3.0, -1e-20, 1e5)),
    CodebookFormat(name="one_value", table=(0.5, float("nan"))),
]
ALL: dict[str, Format] = {fmt.name: fmt for fmt in [*map(formats.get, REGISTERED + BY_PATTERN), *UNUSUAL]}


def levels_of(fmt: Format) -> np.ndarray:
    """The distinct finite values that `encode` gives, ascending (without an integer's unused code)."""
    values = fmt.values()
    finite = np.unique(values[np.isfinite(values)])
    return finite[(finite >= fmt.min) & (finite <= fmt.max)]


SYMMETRIC = {name: fmt for name, fmt in ALL.items() if np.array_equal(levels_of(fmt), -levels_of(fmt)[::-1])}


@pytest.fixture(params=ALL.values(), ids=ALL.keys())
def fmt(request: pytest.FixtureRequest) -> Format:
    """Every registered scalar format, some that a pattern names, and some unusual ones."""
    return request.param


@pytest.fixture(params=SYMMETRIC.values(), ids=SYMMETRIC.keys())
def symmetric_fmt(request: pytest.FixtureRequest) -> Format:
    """Those of them whose values are symmetric about zero."""
    return request.param


@pytest.fixture
def levels(fmt: Format) -> np.ndarray:
    """The distinct finite values that `fmt` encodes to, ascending."""
    return levels_of(fmt)
