"""`compare`: closed forms, agreement with the single metrics, special values, JSON, figures."""

import json
import math
from dataclasses import fields, replace

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from narrowgauge.formats import IntFormat, get, parse, quantize_reference
from narrowgauge.kernels import quantize
from narrowgauge.numerics import ErrorReport, compare, metrics
from narrowgauge.numerics.errors.histograms import Histograms
from narrowgauge.numerics.errors.sums import BLOCK, chunked_factors
from narrowgauge.numerics.quantizers.grid import levels, scale_factors, spacing

NAMES = {
    "count",
    "sqnr_db",
    "nmse",
    "bias",
    "gain",
    "cosine_similarity",
    "max_abs_error",
    "max_relative_error",
    "relative_p50",
    "relative_p90",
    "relative_p99",
    "kl_forward",
    "kl_backward",
    "underflow",
    "overflow_clipped",
    "nan_created",
    "inf_created",
    "ulp_max",
    "ulp_mean",
    "ulp_over_half",
    "blocks_clipped",
    "blocks_zeroed",
    "codes_used",
    "codes_available",
    "code_entropy_bits",
    "effective_bits",
    "amax_over_rms",
}
SINGLE = ("sqnr_db", "nmse", "bias", "gain", "cosine_similarity", "max_relative_error")
SCHEMES = ["e4m3fn", "e4m3fn/row", "e5m2/col", "int8/1x128", "int8/32x32:pow2", "mxfp4", "mxfp8:floor", "nvfp4"]
SCHEMES += ["nf4/1x64", "rf8/row", "e4m3fn:static=0.25", "mx9", "int4/row:mse", "uint8/row", "e4m3fn/row+ftz"]


def same(first: ErrorReport, second: ErrorReport) -> bool:
    """NaN included; the texts hold every figure in full."""
    return first.to_json() == second.to_json()


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_report_has_the_fields_that_others_rely_on():
    assert {field.name for field in fields(ErrorReport)} >= NAMES


# --- closed forms ---


def test_uniform_quantisation_noise_has_its_textbook_figures():
    # A uniform signal over the whole range of a b-bit quantizer of step d: error variance d²/12, mean |e| d/4.
    n, step = 1 << 20, 2.0 / 254
    x = (np.arange(n) + 0.5) / n * 2.0 - 1.0
    report = compare(None, x, scheme=f"int8:static={step!r}")
    assert report.sqnr_db == pytest.approx(10 * math.log10((1 / 3) / (step**2 / 12)), abs=0.01)
    assert report.ulp_mean == pytest.approx(0.25, abs=1e-3)
    assert report.ulp_max == pytest.approx(0.5, abs=1e-3)
    assert report.ulp_over_half == 0.0
    assert report.code_entropy_bits == pytest.approx(math.log2(254), abs=0.01)
    assert (report.codes_used, report.codes_available) == (255, 255)
    assert report.bias == pytest.approx(0.0, abs=1e-9)
    assert report.amax_over_rms == pytest.approx(math.sqrt(3), rel=1e-5)
    assert report.effective_bits == pytest.approx(report.sqnr_db / 6.0206, rel=1e-6)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_integer_noise_of_a_gaussian_has_its_closed_form(bits):
    # Error variance step²/12 with step = amax / (2^(b-1) - 1).
    x = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    step = float(np.abs(x).max()) / (2 ** (bits - 1) - 1)
    expected = 10 * math.log10(float(np.mean(np.square(x.astype(np.float64)))) / (step**2 / 12))
    assert compare(None, x, scheme=f"int{bits}").sqnr_db == pytest.approx(expected, abs=0.05)


def test_ulp_errors_are_those_of_the_format_at_each_value():
    # e4m3fn: spacing 2^-9 below 2^-5, then 1/8 of the power of two below.
    x = np.array([[2.0**-12, 0.75 * 2.0**-9, 1.0625, 1.99, 17.0, 460.0, 600.0]])
    actual = np.array([[0.0, 2.0**-9, 1.0, 2.0, 17.0, 448.0, 448.0]])
    report = compare(actual, x, scheme="e4m3fn:static=1.0")
    ulps = np.abs(actual - x) / np.array([2.0**-9, 2.0**-9, 0.125, 0.125, 2.0, 32.0, 32.0])
    assert report.ulp_max == ulps.max() == 152 / 32
    assert report.ulp_mean == pytest.approx(ulps.mean(), rel=1e-15)
    assert report.ulp_over_half == 1 / 7
    assert report.overflow_clipped == 2 / 7
    assert report.underflow == 1 / 7
    assert (report.blocks, report.blocks_clipped, report.blocks_zeroed) == (1, 1, 0)


def test_ulp_is_measured_at_the_scale_of_each_group():
    x = np.array([[448.0, 1.03], [448.0 * 2.0**20, 1.03 * 2.0**20]], dtype=np.float32)
    report = compare(None, x, scheme="e4m3fn/row")
    assert report.ulp_max == pytest.approx(0.03 / 0.125, rel=1e-5)


def test_stochastic_results_may_be_one_ulp_off():
    x = np.full((4, 64), 1.01, dtype=np.float32)
    actual = np.where(np.arange(64) % 2, 1.0, 1.125) * np.ones((4, 1))
    nearest = compare(actual, x, scheme="e4m3fn:static=1.0")
    stochastic = compare(actual, x, scheme="e4m3fn:static=1.0+sr")
    assert (nearest.ulp_over_half, stochastic.ulp_over_half) == (0.5, 0.0)


def test_blocks_that_clip_and_blocks_that_vanish_are_counted():
    x = np.zeros((3, 64), dtype=np.float32)
    x[0, :32] = 7.9  # floor rule: scale 1, beyond 6
    x[1, 32:] = 1.0
    actual = quantize_reference(x, "mxfp4:floor").dequantize()
    actual[1, 32:] = 0.0
    report = compare(actual, x, scheme="mxfp4:floor")
    assert (report.blocks, report.blocks_clipped, report.blocks_zeroed) == (6, 1, 1)
    assert report.overflow_clipped == 32 / 192
    assert report.underflow == 32 / 192


def test_relative_quantiles_are_order_statistics():
    reference = np.ones(100)
    report = compare(reference * (1 + np.arange(1, 101) / 128), reference)
    assert [report.relative_p50, report.relative_p90, report.relative_p99] == [50 / 128, 90 / 128, 99 / 128]
    assert report.max_relative_error == 100 / 128
    assert report.max_abs_error == 100 / 128


def test_kl_divergence_of_two_binades_has_its_closed_form():
    reference = np.array([1.0, 1.5, 4.0, 4.0])  # one half in [1, 2), one half in [4, 8)
    actual = np.array([1.0, 4.0, 4.0, 4.0])  # a quarter, three quarters
    report = compare(actual, reference)
    assert report.kl_forward == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-9)
    assert report.kl_backward == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-9)


def test_kl_divergence_sees_signs_and_not_the_coarseness_of_values():
    x = normal((64, 64))
    assert compare(-x[x > 0], x[x > 0]).kl_forward > 20
    assert compare(quantize_reference(x, "e4m3fn/row").dequantize(), x).kl_forward < 0.01


# --- agreement with what exists ---


@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_objects_and_values_give_one_report(scheme):
    x = normal((70, 130)) if not scheme.startswith("uint") else np.abs(normal((70, 130)))
    q = quantize_reference(x, scheme)
    report = compare(None, x, scheme=scheme)
    assert same(compare(q, x), report)
    assert same(compare(None, x, scheme=scheme, codes=q.codes, scale=q.scale, outer=q.outer), report)
    assert same(compare(q.dequantize(), x, scheme=scheme), report)
    for name in SINGLE:
        single = getattr(metrics, name)(q.dequantize(), x)
        assert getattr(report, name) == pytest.approx(single, rel=1e-9, abs=1e-15), name
    used = np.unique(q.codes).size
    assert report.codes_used == used
    assert report.scheme == str(parse(scheme))


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "mxfp8", "nvfp4", "int8/32x32"])
def test_quantized_tensors_are_taken_as_they_are(scheme):
    x = torch.from_numpy(normal((33, 65)))
    report = compare(quantize(x, scheme), x)
    assert same(report, compare(None, x.numpy(), scheme=scheme))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_tensors_of_every_float_type_are_read_exactly(dtype):
    x = torch.from_numpy(normal((8, 40)))
    actual = x.to(dtype)
    assert same(compare(actual, x), compare(actual.double().numpy(), x.numpy()))


def test_arrays_of_narrow_floats_and_lists_are_read():
    x = normal((8, 40))
    narrow = x.astype(ml_dtypes.float8_e4m3fn)
    assert same(compare(narrow, x), compare(narrow.astype(np.float32).tolist(), x.tolist()))


def test_large_tensors_are_walked_in_blocks_with_the_same_result():
    rows = BLOCK // 100 * 2 + 7
    x = normal((rows, 100))
    whole = quantize_reference(x, "e4m3fn/32x32")
    report = compare(None, x, scheme="e4m3fn/32x32")
    assert report.sqnr_db == pytest.approx(metrics.sqnr_db(whole.dequantize(), x), rel=1e-12)
    assert report.gain == pytest.approx(metrics.gain(whole.dequantize(), x), rel=1e-12)
    assert report.codes_used == np.unique(whole.codes).size
    assert report.blocks == whole.scale.size
    # One row longer than a block.
    long = normal((2, BLOCK + 77))
    for scheme in ("e4m3fn/1x48", "nvfp4"):
        q = quantize_reference(long, scheme)
        assert same(compare(None, long, scheme=scheme), compare(q, long))


@pytest.mark.parametrize("scheme", [*SCHEMES, "e4m3fn/3xall", "e4m3fn/allx5", "bfp6g16", "nvfp4_2d"])
def test_factors_found_block_by_block_are_those_of_the_definition(scheme):
    x = normal((37, 71)) * np.exp2(np.arange(37.0, dtype=np.float32))[:, None]
    spec = parse(scheme)
    q = quantize_reference(x, spec)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = spec.element.decode(q.codes)
        implied = np.where(values != 0, q.dequantize() / values, np.nan)
    for factors in (chunked_factors(x, spec), scale_factors(x.astype(np.float64), spec)):
        rows, cols = (np.arange(n) // (side or n) for n, side in zip(x.shape, spec.factor_tile, strict=True))
        each = factors[rows[:, None], cols[None, :]]
        assert np.array_equal(each[~np.isnan(implied)], implied[~np.isnan(implied)].astype(np.float32))


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=9), elements=st.floats(width=32)))
def test_any_tensor_gives_a_report_that_survives_json(x):
    for scheme in (None, "e4m3fn/row", "mxfp4"):
        actual = x * np.float32(0.875) if scheme is None else None
        report = compare(actual, x, scheme=scheme)
        again = ErrorReport.from_dict(json.loads(report.to_json()))
        assert same(again, report)
        assert report.count == x.size


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_empty_and_zero_tensors_are_perfect(shape):
    report = compare(None, np.zeros(shape, dtype=np.float32), scheme="mxfp8")
    assert report.sqnr_db == math.inf
    assert (report.gain, report.cosine_similarity, report.nmse, report.ulp_mean) == (1.0, 1.0, 0.0, 0.0)
    assert math.isnan(report.amax_over_rms)


# --- special values ---


def test_created_nan_and_infinities_are_counted_and_not_hidden():
    report = compare(np.array([np.nan, np.inf, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert (report.nan_created, report.inf_created) == (1, 1)
    assert math.isnan(report.sqnr_db)
    assert math.isnan(report.max_abs_error)
    assert compare(np.array([np.inf, 3.0]), np.array([2.0, 3.0])).sqnr_db == -math.inf


def test_elements_without_a_finite_reference_are_left_out():
    report = compare(np.array([np.nan, np.nan, 1.0]), np.array([np.nan, np.inf, 1.0]))
    assert (report.count, report.nan_created, report.inf_created) == (3, 0, 0)
    assert (report.sqnr_db, report.max_abs_error) == (math.inf, 0.0)


def test_a_group_that_became_nan_counts_what_it_took_along():
    x = normal((4, 32))
    x[1, 3] = np.nan
    report = compare(None, x, scheme="e4m3fn/row")
    assert report.nan_created == 31
    assert report.ulp_max <= 0.5 + 1e-6


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e160, 1e300])
def test_squares_of_float64_numbers_neither_overflow_nor_vanish(factor):
    x = normal(1000).astype(np.float64)
    plain, scaled = compare(x * 1.001, x), compare(x * factor * 1.001, x * factor)
    for name in ("sqnr_db", "gain", "bias", "cosine_similarity", "nmse"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-9), name


# --- arguments ---


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((np.zeros(3), np.zeros(4)), {}, ValueError, "actual: got shape \\(3,\\), accepted: the shape of reference"),
        ((None, np.zeros(4)), {}, ValueError, "scheme: got None"),
        ((None, np.zeros(4)), {"scheme": "int8+sr"}, ValueError, "a seed belongs to rounding"),
        ((None, np.zeros(4)), {"scheme": "int8", "codes": np.zeros(4, int)}, ValueError, "codes without their scale"),
        ((np.zeros(4, bool), np.zeros(4)), {}, TypeError, "actual: got dtype bool"),
        ((np.zeros(4), np.zeros(4, complex)), {}, TypeError, "reference: got dtype complex128"),
        (
            (None, np.zeros((4, 4))),
            {"scheme": "int8/row", "codes": np.zeros((4, 4), int), "scale": np.ones(3)},
            ValueError,
            "scale: got shape \\(3,\\), accepted: one for each of \\(4, 1\\) groups",
        ),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments, options, error, text):
    with pytest.raises(error, match=text):
        compare(*arguments, **options)


# --- text, JSON, figure ---


def test_table_is_aligned_and_complete():
    report = compare(None, normal((8, 64)), scheme="e4m3fn/row")
    lines = report.table().splitlines()
    assert str(report) == report.table()
    assert lines[0].split() == ["scheme", "e4m3fn/row"]
    assert {line.split()[0] for line in lines[1:]} == {*NAMES, "blocks"}
    assert len({len(line) - len(line[line.index("  ") :].lstrip()) for line in lines}) == 1
    assert "ulp_max" not in compare(np.ones(3), np.ones(3)).table()


def test_json_is_strict_and_reads_back():
    report = compare(np.array([np.nan, 0.0]), np.zeros(2))
    text = report.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert json.loads(text)["sqnr_db"] == "NaN"
    assert json.loads(text)["ulp_max"] is None
    assert same(ErrorReport.from_dict(json.loads(text)), report)
    exact = compare(np.ones(3), np.ones(3))
    assert exact.to_dict()["sqnr_db"] == "Infinity"
    assert ErrorReport.from_dict(exact.to_dict()) == exact
    assert "histograms" not in exact.to_dict(histograms=False)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"nonsense": 1}, "unknown names nonsense"),
        ({"gain": "big"}, "gain: got 'big'"),
        ({"gain": ...}, "gain missing"),
    ],
)
def test_damaged_dictionaries_are_refused(change, text):
    content = compare(np.ones(3), np.ones(3)).to_dict() | change
    content = {key: value for key, value in content.items() if value is not ...}
    with pytest.raises(ValueError, match=text):
        ErrorReport.from_dict(content)


@pytest.mark.parametrize("scheme", [None, "mxfp4:floor", "bf16:static=1.0"])
def test_figure_is_written_as_png_and_from_json_too(tmp_path, scheme):
    x = normal((64, 96)) * 3
    report = compare(None if scheme else x.astype(np.float16), x, scheme=scheme)
    figure = ErrorReport.from_dict(json.loads(report.to_json())).draw(tmp_path / "error.png")
    assert (tmp_path / "error.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert [title.split()[0] for title in titles] == ["error", "magnitudes:", "code", "relative"]


def test_figure_of_nothing_says_so(tmp_path):
    compare(np.zeros(4), np.zeros(4)).draw(tmp_path / "nothing.png")
    assert (tmp_path / "nothing.png").stat().st_size > 1000


def test_figure_needs_histograms():
    report = replace(compare(np.ones(3), np.ones(3)), histograms=None)
    with pytest.raises(ValueError, match="histograms: the report holds none"):
        report.draw()


def test_histograms_count_every_finite_element():
    x = normal((50, 50))
    x[0, :2] = (0.0, 600.0)
    histograms = compare(None, x, scheme="e4m3fn:static=1.0").histograms
    assert isinstance(histograms, Histograms)
    assert sum(histograms.reference) == 2500 - 1  # zero has no binade
    assert sum(histograms.underflowed) == int(np.count_nonzero(np.abs(x) <= 2.0**-10)) - 1 > 0
    assert sum(histograms.clipped) == 1
    assert sum(histograms.code_counts) == sum(sum(row) for row in histograms.value_error) == 2500
    x[0, :2] = (np.nan, np.inf)
    without = compare(x, x).histograms
    assert isinstance(without, Histograms)
    assert sum(without.reference) == sum(without.actual) == 2500 - 2
    assert without.code_counts == ()


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e2m1fn", "int8", "q3.4", "nf4", "rf8", "fp16"])
def test_spacing_is_the_distance_of_neighbouring_values(name):
    element = get(name)
    table = levels(element)
    inner = (table[:-1] + table[1:]) / 2
    assert np.array_equal(spacing(inner, element), np.diff(table))
    if isinstance(element, IntFormat):
        assert np.all(spacing(table, element) == element.step)
