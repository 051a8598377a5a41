"""RF8 beside other formats: who is better where, as measured."""

import math

import pytest
import torch

from narrowgauge.kernels import quantize
from narrowgauge.priors import GeneralizedGaussian
from narrowgauge.priors.rf8_cast import cast_error
from narrowgauge.priors.rf8_compare import READINGS, compare_formats, verdicts

SMALL = {"size": (64, 1024), "seeds": 1}


@pytest.fixture(scope="module")
def rows():
    return compare_formats((0.3, 1.0, 2.0), size=(128, 2048), seeds=1)


def sqnr(rows, format, scaling, shape):
    (row,) = (r for r in rows if (r.format, r.scaling, r.shape) == (format, scaling, shape))
    return row.sqnr_db


def test_one_row_is_the_mean_over_seeds():
    (row,) = compare_formats((1.0,), ("rf8",), ("row",), size=(64, 512), seeds=2, stds=(0.5,))
    prior = GeneralizedGaussian.from_std(1.0, 0.5)
    errors = []
    for seed in (0, 1):
        x = prior.sample((64, 512), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        errors.append(cast_error("", x, quantize(x, "rf8/row")))
    noise = sum(10 ** (-error.sqnr_db / 10) for error in errors) / 2
    assert row.sqnr_db == pytest.approx(-10 * math.log10(noise))
    assert row.worst == max(error.worst for error in errors)
    assert row.flushed == pytest.approx(sum(error.flushed for error in errors) / 2)
    assert (row.shape, row.std, row.scaling, row.format) == (1.0, 0.5, "row", "rf8")


def test_scaled_rf8_keeps_28_decibels_and_stays_between_e5m2_and_e4m3fn(rows):
    for shape in (0.3, 1.0, 2.0):
        for scaling in ("tensor", "row", "1x128"):
            rf8, nearest = sqnr(rows, "rf8", scaling, shape), sqnr(rows, "rf8_nearest", scaling, shape)
            assert sqnr(rows, "e5m2", scaling, shape) + 2 < rf8 < sqnr(rows, "e4m3fn", scaling, shape) - 2
            assert 0.2 < nearest - rf8 < 0.7
            assert sqnr(rows, "rf8_floor", scaling, shape) < sqnr(rows, "rf8_floor_log", scaling, shape) < rf8 - 3
        assert sqnr(rows, "rf8", "tensor", shape) == pytest.approx(28.0, abs=0.3)


def test_int8_is_better_at_light_tails_and_worse_at_heavy_ones(rows):
    assert sqnr(rows, "rf8", "tensor", 0.3) > sqnr(rows, "int8", "tensor", 0.3) + 5
    assert sqnr(rows, "rf8", "tensor", 2.0) < sqnr(rows, "int8", "tensor", 2.0) - 8
    assert sqnr(rows, "rf8", "1x128", 0.3) < sqnr(rows, "int8", "1x128", 0.3)


def test_unscaled_rf8_is_better_at_small_weights_and_worse_at_large_ones():
    names = ("rf8", "e4m3fn", "e5m2", "hif8", "posit8es1", "posit8es2")
    found = compare_formats((1.0, 2.0), names, ("none",), stds=(0.5, 0.02, 0.005, 0.0005), **SMALL)
    by_std = {std: [v for v in verdicts(found) if v.std == std] for std in (0.5, 0.02, 0.005, 0.0005)}
    for small in (0.005, 0.0005):
        assert all(v.loses_to == () and v.margin_db > 2 for v in by_std[small])
    assert all(v.loses_to == ("e4m3fn",) and -2 < v.margin_db < 0 for v in by_std[0.02])
    assert all(v.beats == () and v.margin_db < -10 for v in by_std[0.5])


def test_verdicts_compare_one_reading_with_what_is_no_rf8(rows):
    for reading in ("rf8", "rf8_nearest"):
        found = verdicts(rows, reading)
        assert len(found) == 3 * 4
        for verdict in found:
            others = {*verdict.beats, *verdict.loses_to}
            assert verdict.format == reading
            assert not others & set(READINGS)
            assert verdict.margin_db == pytest.approx(
                verdict.sqnr_db - sqnr(rows, verdict.best, verdict.scaling, verdict.shape)
            )
            assert (verdict.margin_db > 0) == (verdict.loses_to == ())


def test_integers_have_no_direct_cast(rows):
    assert {row.format for row in rows if row.scaling == "none"} == {row.format for row in rows} - {"int8"}


def test_progress_is_told():
    told = []
    compare_formats((1.0, 2.0), ("rf8",), ("row",), show=lambda *at: told.append(at), **SMALL)
    assert told == [(0, 2, "shape 1, std 0.02"), (1, 2, "shape 2, std 0.02")]


def test_wrong_arguments_are_refused(rows):
    with pytest.raises(ValueError, match=r"^scalings: got 'col', accepted: tensor, row, 1x128, none"):
        compare_formats((1.0,), scalings=("col",))
    with pytest.raises(ValueError, match="unknown name 'e4m3z'"):
        compare_formats((1.0,), ("rf8", "e4m3z"))
    with pytest.raises(ValueError, match=r"^seeds: got 0"):
        compare_formats(seeds=0)
    with pytest.raises(ValueError, match=r"^rows: got .*accepted: rf8 and others beside it"):
        verdicts([row for row in rows if row.format in READINGS])
