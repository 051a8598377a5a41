"""The parts of `check_quantizer`: its inputs, the search for small ones, models of faults, statistics."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import planted_quantizers as planted
from narrowgauge.formats import Overflow, get, parse, quantize_reference
from narrowgauge.numerics import assert_quantizer, check_quantizer
from narrowgauge.numerics.quantizers.call import LAYOUTS, CallFailed, Subject
from narrowgauge.numerics.quantizers.cases import (
    arranged,
    element_probes,
    every_bfloat16,
    every_float16,
    group_layout,
    scale_borders,
    unit_anchor,
)
from narrowgauge.numerics.quantizers.faults import FAULTS, Diagnosis
from narrowgauge.numerics.quantizers.grid import levels, scale_factors
from narrowgauge.numerics.quantizers.models import Setting, quantised, to_bfloat16
from narrowgauge.numerics.quantizers.read import read
from narrowgauge.numerics.quantizers.shrink import MOST_TRIALS, shrink
from narrowgauge.numerics.quantizers.stochastic import Probe, chernoff, frequency_fault, is_consistent
from narrowgauge.numerics.quantizers.terms import Terms

FEW = 1 << 12
CAST = planted.CAST


# --- inputs ---


def test_every_sixteen_bit_float_is_among_the_inputs():
    assert every_float16().size == 2**16 - 2 * 1024
    assert every_bfloat16().size == 2**16 - 2 * 128
    seen = []
    check_quantizer(lambda x: seen.append(x) or planted.saturating_cast(x), CAST)
    bits = {value for x in seen for value in x.reshape(-1).view(np.uint32).tolist()}
    for values_ in (every_float16(), every_bfloat16()):
        assert set(values_.view(np.uint32).tolist()) <= bits
    assert {float(v) for v in levels(get("e4m3fn"))} <= {float(v) for x in seen for v in x.reshape(-1)}


def test_probes_hold_every_midpoint_with_its_neighbours():
    probes = element_probes(get("e2m1fn"))
    for middle in (0.25, 0.75, 2.5, 5.0, -1.75):
        near = np.nextafter(np.float32(middle), np.float32([-9, 9]))
        assert {middle, *near.tolist()} <= set(probes["midpoints"].tolist())
    assert {7.0, 6.5, 3.4028234663852886e38} <= set(probes["saturation"].tolist())


@pytest.mark.parametrize(
    "scheme", ["e4m3fn", "e4m3fn/row", "e4m3fn/col", "int8/4x8", "mxfp8", "mxfp4:floor", "nvfp4", "mxfp8:ceil"]
)
def test_probes_meet_the_scale_they_are_made_for(scheme):
    spec = parse(scheme)
    anchor, scale = unit_anchor(spec)
    assert np.frexp(scale)[0] == 0.5
    probes = np.linspace(-spec.element.max / 2, spec.element.max / 2, 500, dtype=np.float32)
    (x,) = arranged(probes, spec)
    factors = np.unique(scale_factors(x.astype(np.float64), spec))
    assert scale in factors
    assert len(factors) == 1 + (scheme == "nvfp4")
    placed = np.isin(probes * np.float32(scale), x)
    assert placed.all()
    assert np.abs(x).max() == (2688.0 if scheme == "nvfp4" else anchor)


def test_scale_borders_hold_powers_of_two_multiples_of_the_largest_value_and_neighbours():
    spec = parse("e4m3fn/1x8")
    amax = {
        float(np.abs(x[i, j : j + 8]).max())
        for x in scale_borders(spec, np.random.default_rng(0))
        for i in range(x.shape[0])
        for j in range(0, x.shape[1], 8)
    }
    for wanted in (1.0, 448.0, 224.0, 2.0**-126, 0.0, float(np.finfo(np.float32).max)):
        assert wanted in amax
    for centre in (np.float32(1.0), np.float32(448.0)):
        assert {float(np.nextafter(centre, np.float32(0))), float(np.nextafter(centre, np.float32(1e9)))} <= amax


def test_groups_that_are_a_single_element_have_no_probes():
    assert arranged(np.ones(4, np.float32), parse("e4m3fn/1x1")) == []
    assert_quantizer(lambda x: quantize_reference(x, "e4m3fn/1x1"), "e4m3fn/1x1", budget=FEW)
    assert group_layout(parse("e4m3fn/1x1"), 6) == (2, 4, 1, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_layouts_hold_the_same_numbers(layout, as_tensor):
    seen = []
    subject = Subject(lambda x: seen.append(x) or x, Terms(parse(CAST)), as_tensor)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(subject.call(x, layout=layout).values, x)
    (given_,) = seen
    contiguous = given_.is_contiguous() if as_tensor else given_.flags.c_contiguous
    assert contiguous == (layout in ("contiguous", "offset"))


def test_inputs_that_a_function_writes_to_are_its_fault():
    subject = Subject(lambda x: x.fill(1) or x, Terms(parse(CAST)))
    with pytest.raises(CallFailed, match="wrote to its input"):
        subject.call(np.zeros((2, 2), np.float32))


# --- shrinking ---


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-1e3, 1e3, width=32)))
def test_shrinking_keeps_failing_and_is_minimal(x):
    x = x.copy()
    x[x.shape[0] // 2, x.shape[1] // 2] = 77.25

    def fails(y):
        return bool((np.abs(y) > 70).any())

    small = shrink(x, fails)
    assert fails(small)
    assert small.shape == (1, 1)
    assert small[0, 0] in (128.0, 256.0, 512.0)  # one significant bit


def test_shrinking_keeps_what_a_failure_needs():
    def fails(y):  # two elements of one row that differ by a factor of a thousand
        size = np.abs(y)
        return bool(
            ((size.max(axis=1) > 1000 * np.where(size > 0, size, np.inf).min(axis=1)) & (size > 0).any(axis=1)).any()
        )

    x = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    x[7, 9] = 1e-9
    small = shrink(x, fails)
    assert fails(small)
    assert small.shape == (1, 2)
    assert np.count_nonzero(small) == 2


def test_shrinking_stops():
    calls = []
    shrink(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32), lambda y: not calls.append(1))
    assert len(calls) <= MOST_TRIALS


# --- models of faults ---


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "mxfp8", "int8/1x16", CAST, "nvfp4"])
def test_the_model_without_a_fault_is_the_definition(scheme):
    x = np.random.default_rng(0).standard_normal((20, 70)) * np.exp2(np.arange(20.0))[:, None]
    x = x.astype(np.float32)
    with np.errstate(all="ignore"):
        model = quantised(Setting(Terms(parse(scheme)), x.astype(np.float64), None))
    assert np.array_equal(model, quantize_reference(x, scheme).dequantize())


def _telling_inputs():
    """Ordinary numbers, small groups down to 1e-31, zeros, ties, NaN; then groups whose amax is a border of scales."""
    x = np.random.default_rng(0).standard_normal((40, 200))
    x[1] = 0.0
    x[2:34] *= np.power(10.0, -np.arange(32.0))[:, None]
    x[34, :4] = (0.0, -0.0, 1.0625, 1.1875)
    x[35, 0], x[36, 0] = np.nan, np.inf
    borders = [np.nextafter(np.float32(2.0**20), np.float32(0)), 464.0, 1e4, 2.0**-10, 2.0**-15, 448.0]
    yield x.astype(np.float32).astype(np.float64)
    yield np.where(np.arange(200) % 64 == 3, np.array(borders)[:, None], 0.1 * np.arange(200) / 1000)
    yield x + 1e-12


def test_every_fault_differs_from_the_definition_somewhere():
    schemes = [CAST, "int8:static=0.0078125", "e2m1fn:static=0.25", "e5m2:static=0.0001", "int4_full:static=0.1"]
    schemes += ["e4m3fn/1x16", "e4m3fn/row", "int8/1x16", "mxfp8", "mxfp8:floor", "e4m3fn/1x16:pow2", "nvfp4"]
    silent = {fault.kind for fault in FAULTS}
    for scheme in schemes:
        for overflow in Overflow if "static" in scheme else (Overflow.SATURATE,):
            for x in _telling_inputs():
                setting = Setting(Terms(parse(scheme), overflow=overflow), x, 3 * x[::-1], True)
                with np.errstate(all="ignore"):
                    right = quantised(setting)
                    for fault in FAULTS:
                        found = fault.model(setting) if fault.kind in silent else None
                        if found is not None and found.tobytes() != right.tobytes():
                            silent.discard(fault.kind)
    assert not silent


def test_bfloat16_of_the_models_is_that_of_ml_dtypes():
    x = np.concatenate([every_float16(), np.nextafter(every_bfloat16(), np.float32(np.inf))]).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float64)
    assert np.array_equal(to_bfloat16(x.astype(np.float64)), expected, equal_nan=True)


def test_diagnosis_says_how_certain_it_is():
    assert str(Diagnosis("x", 5, 5, 0)) == "looks like: x (reproduces 5 of 5 wrong outputs)"
    assert (
        str(Diagnosis("x", 5, 9, 2)) == "in part looks like: x (reproduces 5 of 9 wrong outputs, against it: 2 others)"
    )
    assert str(Diagnosis(None, 0, 9, 0)) == "looks like none of the known faults"


# --- statistics of stochastic rounding ---


@pytest.mark.parametrize("probability", [2.0**-10, 0.01, 0.5, 0.9])
def test_fair_draws_are_consistent_and_unfair_ones_are_not(probability):
    rng = np.random.default_rng(0)
    n = 1 << 15
    away = rng.binomial(n, probability, 2000)
    fair = [is_consistent(Probe(0.0, probability, n, int(k), 0, np.nan), probability, 0.0) for k in away]
    assert all(fair)
    other = probability + 7 * np.sqrt(probability * (1 - probability) / n) + 2.0**-10
    assert not is_consistent(Probe(0.0, probability, n, round(n * other), 0, np.nan), probability, 0.0)


def test_chernoff_bound_is_never_weaker_than_hoeffdings():
    for share in (0.0, 0.1, 0.5, 0.99, 1.0):
        for probability in (0.01, 0.3, 0.5, 0.9):
            assert chernoff(1000, share, probability) >= 2 * 1000 * (share - probability) ** 2 - 1e-9
    assert chernoff(10, 0.5, 0.0) == np.inf


def test_right_frequencies_have_no_fault():
    probes = [Probe(1.0 + f, f, 1 << 15, round(f * (1 << 15)), 0, np.nan) for f in (0.0, 0.25, 0.5, 2.0**-9)]
    assert frequency_fault(probes, 16) is None


# --- results ---


@pytest.mark.parametrize("dtype", [np.uint8, ml_dtypes.float8_e4m3fn])
def test_a_bare_array_is_what_the_mode_says(dtype):
    scheme = parse("e4m3fn:static=0.5")
    bare = np.array([[2, 3, 4]]).astype(dtype)
    bits = bare.view(np.uint8)
    as_codes = get("e4m3fn").decode(bits) * 0.5
    for mode in ("auto", "codes"):
        found = read(bare, scheme, bare.shape, mode)
        assert (found.values.tolist(), found.codes.tolist()) == (as_codes.tolist(), bits.tolist())
    found = read(bare, scheme, bare.shape, "values")
    assert (found.values.tolist(), found.codes) == ([[2.0, 3.0, 4.0]], None)
