"""What every scalar format promises, whatever its family: codes, limits, overflow, NaN, shapes; on all codes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import CodebookFormat, FloatFormat, Format, NanPolicy, Overflow, Rounding
from narrowgauge.formats.posit import BitStringFormat

DETERMINISTIC = [mode for mode in Rounding if not mode.needs_random_bits]
NEAREST = [Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY]

every_mode = pytest.mark.parametrize("mode", DETERMINISTIC)


def same(actual: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.array_equal(actual, expected, equal_nan=True))


def test_every_value_encodes_to_itself_in_every_mode(fmt: Format) -> None:
    values = fmt.values()
    finite = values[np.isfinite(values) & (values >= fmt.min)]
    assert same(fmt.round(finite), finite)
    for mode in DETERMINISTIC:
        for overflow in Overflow:
            assert same(fmt.round(finite, mode, overflow=overflow), finite), (mode, overflow)


def test_codes_round_trip(fmt: Format) -> None:
    codes = fmt.all_codes()
    values = fmt.values()
    own = np.isfinite(values) & (values >= fmt.min)
    again = fmt.encode(values[own])
    assert again.dtype == fmt.code_dtype == codes.dtype
    assert np.array_equal(fmt.decode(again), values[own])
    if not isinstance(fmt, CodebookFormat):  # codebooks may name a value twice
        assert np.array_equal(again, codes[own])
        assert np.array_equal(np.signbit(fmt.decode(again)), np.signbit(values[own]))
    infinite = np.isinf(values)
    assert infinite.any() == fmt.has_inf
    assert np.array_equal(fmt.encode(values[infinite], overflow="propagate"), codes[infinite])
    assert np.array_equal(fmt.encode(values[infinite], overflow="nonsaturating"), codes[infinite])


def test_nan_codes_decode_to_nan_and_come_back_canonical(fmt: Format) -> None:
    values = fmt.values()
    assert np.isnan(values).any() == fmt.has_nan == (fmt.nan_code is not None)
    if not fmt.has_nan:
        return
    assert np.isnan(fmt.decode(fmt.nan_code))
    assert fmt.encode(np.nan) == fmt.nan_code
    assert np.isnan(fmt.round(values[np.isnan(values)])).all()
    has_signed_nan = isinstance(fmt, FloatFormat) and fmt.signed and not fmt.nan_at_negative_zero
    assert np.signbit(fmt.round(-np.nan)) == has_signed_nan


def test_nan_policies(fmt: Format) -> None:
    x = np.array([1.0, np.nan, -np.nan])
    assert np.array_equal(fmt.encode(x, nan="max")[1:], fmt.encode([fmt.max, fmt.max]))
    assert np.array_equal(fmt.encode(x, nan=NanPolicy.ZERO)[1:], fmt.encode([0.0, 0.0]))
    if fmt.has_nan:
        assert np.isnan(fmt.round(x)).tolist() == [False, True, True]
    else:
        with pytest.raises(ValueError, match=r"^x: 2 NaN of 3 values and .* has no NaN code; pass nan='zero'"):
            fmt.encode(x)


def test_derived_limits_are_those_of_the_table(fmt: Format, levels: np.ndarray) -> None:
    assert (fmt.min, fmt.max) == (levels[0], levels[-1])
    assert fmt.has_zero == (0.0 in levels)
    assert fmt.signed == (levels[0] < 0)
    assert fmt.smallest_subnormal == levels[levels > 0][0]
    assert fmt.smallest_normal in levels
    assert fmt.bits == int(np.log2(fmt.all_codes().size))
    if fmt.min <= 1.0 < fmt.max and not isinstance(fmt, CodebookFormat):
        assert fmt.epsilon == levels[levels > 1.0][0] - levels[levels <= 1.0][-1]
    if isinstance(fmt, FloatFormat):
        assert fmt.finite_codes == np.isfinite(fmt.values()).sum()
        assert 2.0**fmt.emax <= fmt.max < 2.0 ** (fmt.emax + 1)
        assert fmt.smallest_normal == (fmt.decode(1) if fmt.zero_at_bottom else 2.0**fmt.emin)


def test_saturation_reaches_the_ends_and_stays_there(fmt: Format) -> None:
    beyond = np.array([np.nextafter(fmt.max, np.inf), fmt.max * 1.5 + 1.0, 1e300, np.inf])
    below = np.array([-(abs(fmt.min) * 1.5 + 1.0), -1e300, -np.inf])
    for mode in [None, *DETERMINISTIC]:
        assert (fmt.round(beyond, mode) == fmt.max).all(), mode
        assert (fmt.round(below, mode) == fmt.min).all(), mode


@every_mode
def test_propagation_keeps_infinities_and_only_those(fmt: Format, mode: Rounding) -> None:
    x = np.array([1e300, np.inf, -1e300, -np.inf])
    top = np.inf if fmt.has_inf else fmt.max
    bottom = -np.inf if fmt.has_inf and fmt.signed else fmt.min
    assert fmt.round(x, mode, overflow="propagate").tolist() == [fmt.max, top, fmt.min, bottom]


@every_mode
def test_nonsaturating_overflow(fmt: Format, mode: Rounding) -> None:
    if not isinstance(fmt, FloatFormat):
        q = fmt.round([1e300, -1e300, np.inf, -np.inf], mode, overflow="nonsaturating")
        ends = np.array([fmt.max, fmt.min])
        if fmt.has_inf:  # a directed mode keeps finite values finite on its inner side
            assert (np.isinf(q[:2]) | (q[:2] == ends)).all()
            assert q[2:].tolist() == [np.inf, -np.inf]
        else:  # posits and takums convert infinities to NaR; the rest saturates throughout
            assert same(q, np.concatenate([ends, [np.nan] * 2 if isinstance(fmt, BitStringFormat) else ends]))
        return
    # Rounding comes first, with an unbounded exponent: the next value would be max + step.
    step = 2.0 ** (fmt.emax - fmt.mantissa_bits)
    tie = fmt.max + step / 2
    x = np.array([fmt.max, np.nextafter(fmt.max, np.inf), np.nextafter(tie, 0), tie, np.nextafter(tie, np.inf), np.inf])
    special = np.inf if fmt.has_inf else np.nan if fmt.has_nan and fmt.overflow_to_nan else fmt.max
    odd = bool(fmt.encode(fmt.max) % 2)
    top = fmt.max
    expected = {
        Rounding.NEAREST_EVEN: [top, top, top, special if odd else top, special, special],
        Rounding.NEAREST_AWAY: [top, top, top, special, special, special],
        Rounding.NEAREST_ZERO: [top, top, top, top, special, special],
        Rounding.NEAREST_ODD: [top, top, top, top if odd else special, special, special],
        Rounding.TOWARD_ZERO: [top, top, top, top, top, special],
        Rounding.DOWN: [top, top, top, top, top, special],
        Rounding.UP: [top, special, special, special, special, special],
        Rounding.TO_ODD: [top, top, top, top, top, special],
    }
    assert same(fmt.round(x, mode, overflow="nonsaturating"), np.array(expected[mode]))
    if fmt.signed:
        mirrored = {Rounding.UP: Rounding.DOWN, Rounding.DOWN: Rounding.UP}.get(mode, mode)
        assert same(fmt.round(-x, mirrored, overflow="nonsaturating"), -np.array(expected[mode]))
    elif fmt.has_nan:
        assert np.isnan(fmt.round([-1.0, -1e300, -np.inf], mode, overflow="nonsaturating")).all()


@pytest.mark.parametrize(
    ("argument", "options", "accepted"),
    [
        ("rounding", {"rounding": "nearest"}, "nearest_even, nearest_away.*did you mean 'nearest_"),
        (
            "overflow",
            {"overflow": "saturated"},
            "saturate, propagate, nonsaturating; did you mean 'saturate'",
        ),
        ("nan", {"nan": "rise"}, "keep, zero, max, raise; did you mean 'raise'"),
        ("subnormals", {"subnormals": "ftz"}, "gradual, flush, flush_input"),
    ],
)
def test_unknown_modes_are_refused_by_name(argument: str, options: dict[str, str], accepted: str) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: got '.*', accepted: .*{accepted}"):
        formats.get("e4m3fn").encode([1.0], **options)


def test_decode_takes_integers_of_its_width_only(fmt: Format) -> None:
    with pytest.raises(TypeError, match="expects integer codes, got dtype float64"):
        fmt.decode([0.0])
    with pytest.raises(ValueError, match=f"has {fmt.bits}-bit codes"):
        fmt.decode([2**fmt.bits])
    assert fmt.decode(np.zeros((0, 3), dtype=np.uint8)).shape == (0, 3)


def test_shapes_and_scalars_are_kept(fmt: Format) -> None:
    x = np.linspace(-1, 1, 24).reshape(2, 3, 4)
    assert fmt.encode(x).shape == (2, 3, 4)
    assert np.array_equal(fmt.encode(x[:, ::-1, ::2]), fmt.encode(x)[:, ::-1, ::2])
    assert fmt.encode(np.zeros((3, 0))).shape == (3, 0)
    scalar = fmt.encode(0.5)
    assert isinstance(scalar, np.ndarray)
    assert scalar.shape == fmt.decode(scalar).shape == ()
    assert isinstance(fmt.decode(scalar), np.ndarray)


def test_formats_are_values(fmt: Format) -> None:
    copy = pickle.loads(pickle.dumps(fmt))
    assert copy == fmt
    assert hash(copy) == hash(fmt)
    with pytest.raises(AttributeError):
        fmt.name = "other"  # type: ignore[misc]
