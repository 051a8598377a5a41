"""P3109 against the numbers of the report; `test_oracles_p3109.py` compares it with gfloat."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import p3109

PARAMETERS = [
    (bits, precision, signed, extended)
    for bits in range(3, 17)
    for signed in (True, False)
    for precision in range(1, bits if signed else bits + 1)
    for extended in (True, False)
]


def exponent_bits(parameters: tuple[int, int, bool, bool]) -> int:
    bits, precision, signed, _ = parameters
    return bits - precision + (0 if signed else 1)


FITTING = [parameters for parameters in PARAMETERS if exponent_bits(parameters) <= 11]


def test_all_but_fifty_of_the_published_formats_fit_float64() -> None:
    assert (len(PARAMETERS), len(FITTING)) == (504, 454)
    for parameters in FITTING:
        fmt = p3109(*parameters)
        assert 0 < fmt.smallest_subnormal < fmt.max < np.inf
    for parameters in set(PARAMETERS) - set(FITTING):
        with pytest.raises(ValueError, match="beyond float64"):
            p3109(*parameters)


def test_finite_domains_clamp() -> None:
    x = np.array([300.0, np.inf, -np.inf])
    assert p3109(8, 4, extended=False).round(x, overflow="nonsaturating").tolist() == [240.0, 240.0, -240.0]


@pytest.mark.parametrize("parameters", [p for p in PARAMETERS if p[0] <= 8])
def test_code_points_that_every_format_has(parameters: tuple[int, int, bool, bool]) -> None:
    bits, _, signed, extended = parameters
    fmt = p3109(*parameters)
    assert fmt.decode(0) == 0.0
    assert fmt.decode(2 ** (bits - 2) if signed else 2 ** (bits - 1)) == 1.0
    assert fmt.nan_code == (2 ** (bits - 1) if signed else 2**bits - 1)
    if extended:
        assert fmt.inf_code == (2 ** (bits - 1) - 1 if signed else 2**bits - 2)
    assert fmt.has_inf == extended
    assert fmt.finite_codes == 2**bits - 1 - (0 if not extended else 2 if signed else 1)


@pytest.mark.parametrize(
    ("precision", "extended_max", "finite_max", "least_normal", "least"),
    [
        (1, 2.0**62, 2.0**63, 2.0**-63, 2.0**-63),
        (2, 2.0**31, 1.5 * 2.0**31, 2.0**-31, 2.0**-32),
        (3, 49152.0, 57344.0, 2.0**-15, 2.0**-17),
        (4, 224.0, 240.0, 2.0**-7, 2.0**-10),
        (5, 15.0, 15.5, 2.0**-3, 2.0**-7),
        (6, 3.875, 3.9375, 2.0**-1, 2.0**-6),
        (7, 1.96875, 1.984375, 1.0, 2.0**-6),
    ],
)
def test_limits_of_the_eight_bit_formats(
    precision: int, extended_max: float, finite_max: float, least_normal: float, least: float
) -> None:
    extended, finite = formats.get(f"binary8p{precision}se"), formats.get(f"binary8p{precision}sf")
    assert (extended.max, finite.max) == (extended_max, finite_max)
    assert extended.smallest_normal == finite.smallest_normal == least_normal
    assert extended.smallest_subnormal == finite.smallest_subnormal == least


def test_two_of_them_are_the_fnuz_formats() -> None:
    for ours, twin in (("binary8p4sf", "e4m3fnuz"), ("binary8p3sf", "e5m2fnuz")):
        assert np.array_equal(formats.get(ours).values(), formats.get(twin).values(), equal_nan=True)


def test_scale_format_is_e8m0_shifted_by_one_code() -> None:
    ours, e8m0 = formats.get("binary8p1uf"), formats.get("e8m0fnu")
    assert ours.decode(0) == 0.0
    assert np.array_equal(ours.values()[1:255], e8m0.values()[:254])
    assert ours.max == 2.0**126


def test_small_mandatory_format() -> None:
    levels = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0]
    assert formats.get("binary4p2sf").values()[:8].tolist() == levels


def test_names_carry_the_parameters() -> None:
    assert formats.get("binary8p3") == formats.get("binary8p3se") == p3109(8, 3)
    assert formats.get("binary6p2uf") == p3109(6, 2, signed=False, extended=False)
    for parameters in FITTING[::7]:
        fmt = p3109(*parameters)
        assert formats.get(fmt.name) == fmt


@pytest.mark.parametrize(
    ("bits", "precision", "signed"), [(2, 1, True), (17, 4, True), (8, 0, True), (8, 8, True), (8, 9, False)]
)
def test_other_parameters_are_refused(bits: int, precision: int, signed: bool) -> None:
    with pytest.raises(
        ValueError, match=rf"bits 3..16 and precision 1..bits - 1.*got bits={bits}, precision={precision}"
    ):
        p3109(bits, precision, signed=signed)
