"""A sweep measures what the survey measured, skips what cannot be, and answers which format is for which tensor."""

import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from narrowgauge import formats
from narrowgauge.numerics import SweepResult, from_distributions, report, sqnr_db, sweep
from narrowgauge.numerics.errors.measure import compare
from narrowgauge.numerics.sweeps.measure import bits_per_value
from narrowgauge.numerics.sweeps.rows import SweepRow, TensorSummary
from narrowgauge.numerics.sweeps.run import DEFAULT_SCHEMES, combine
from narrowgauge.numerics.sweeps.shapes import shape_series

# Gaussian, scaled by the tensor's amax; survey F.4, for 2e6 samples.
GAUSSIAN_DB = {
    "fp16": 73.6,
    "bf16": 55.6,
    "int8": 39.4,
    "e3m4": 37.6,
    "e4m3fn": 31.6,
    "hif8:static=1.0": 31.5,
    "e5m2": 25.6,
    "int4": 14.2,
    "nvfp4": 20.4,
    "mxfp4": 18.8,
}
# The largest sample sets the step of an integer: 4 to 5.5 sigma, that is a decibel up or down.
BY_AMAX = {"int8", "int4"}

# 1024 × 1024, survey coat_fp8 3.7: scheme -> N(0, 1), Laplace, 1/128 channels × 50.
TABLE_DB = {
    "e4m3fn/1x128": (31.8, 32.1, 44.6),
    "e4m3fn/1x16": (33.0, 33.9, 45.9),
    "mxfp8:floor": (30.6, 30.0, 27.9),
    "mxfp8": (31.5, 31.6, 31.6),
    "int8/1x128": (43.8, 41.0, 32.1),
    "nvfp4": (20.4, 20.7, 23.8),
    "mxfp4:floor": (18.8, 17.9, 16.2),
    "mxfp4": (18.8, 17.6, 17.3),
    "nvfp4+sr": (17.2, 17.4, 18.4),
}


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return sweep(
        from_distributions(["normal", "gg0.5", "gg1", "gg2", "uniform"], size=(32, 256)),
        ["int4/1x32", "nvfp4", "mxfp6", "e4m3fn", "int8/row", "mxfp8", "bf16"],
    )


def known(scheme: str) -> bool:
    return scheme.split(":")[0] in formats.names()


@pytest.mark.parametrize("scheme", [scheme for scheme in GAUSSIAN_DB if known(scheme)])
def test_the_sqnr_of_gaussian_data_is_the_published_one(scheme):
    found = sweep(from_distributions(["normal"], size=(128, 1024)), [scheme]).rows[0].sqnr_db
    assert found == pytest.approx(GAUSSIAN_DB[scheme], abs=1.0 if scheme in BY_AMAX else 0.15)


def test_without_a_scale_the_range_of_the_format_decides():
    x = 1e-4 * next(iter(from_distributions(["normal"], size=(128, 1024)))).values
    found = sweep({"small": x}, ["hif8:static=1", "e4m3fn:static=1"])
    assert found.row("small", "hif8:static=1.0").sqnr_db == pytest.approx(19.7, abs=0.15)
    assert found.row("small", "e4m3fn:static=1.0").metric("underflow") == 1.0
    assert found.row("small", "e4m3fn:static=1.0").sqnr_db == 0.0


def test_the_sqnr_of_an_integer_is_that_of_uniform_noise():
    found = sweep(from_distributions(["normal"], size=(128, 1024)), ["int8"])
    (tensor,) = found.tensors
    step = tensor.amax / 127
    assert found.rows[0].sqnr_db == pytest.approx(10 * math.log10(12 * tensor.rms**2 / step**2), abs=0.05)


@pytest.mark.slow
def test_the_sqnr_of_two_million_gaussian_samples_is_the_published_one():
    schemes = [scheme for scheme in GAUSSIAN_DB if known(scheme)]
    found = sweep(from_distributions(["normal"], size=(2048, 1024)), schemes)
    for row in found.rows:
        assert row.sqnr_db == pytest.approx(GAUSSIAN_DB[row.scheme], abs=1.0 if row.scheme in BY_AMAX else 0.1)


def test_the_sqnr_by_granularity_and_distribution_is_the_published_one():
    tensors = {
        tensor.info.name: tensor.values for tensor in from_distributions(["normal", "laplace"], size=(128, 1024))
    }
    tensors["channels"] = tensors["normal"].copy()
    tensors["channels"][:, 5::128] *= 50.0  # each is the largest of its group and so exact
    found = sweep(tensors, TABLE_DB)
    for text, expected in TABLE_DB.items():
        scheme = str(formats.parse(text))
        for name, value in zip(tensors, expected, strict=True):
            # A thousand outliers carry nearly all of the power.
            tolerance = 0.8 if name == "channels" else 0.2
            assert found.row(name, scheme).sqnr_db == pytest.approx(value, abs=tolerance), (text, name)


def test_rows_hold_what_compare_says_of_the_reference_quantizer():
    x = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    (row,) = sweep({"x": x}, ["e4m3fn/1x32+sr"], seed=5).rows
    quantized = formats.quantize_reference(x, "e4m3fn/1x32+sr", seed=5)
    expected = compare(quantized, x)
    assert set(row.metrics) == set(expected.to_dict(histograms=False)) - {"count", "scheme"}
    for name, value in row.metrics.items():
        assert value == getattr(expected, name), name
    assert (row.tensor, row.role, row.scheme) == ("x", "tensor", "e4m3fn/1x32+sr")


def test_tensors_of_torch_and_lists_are_swept_too():
    found = sweep({"a": torch.tensor([[1.0, 2.5]], dtype=torch.bfloat16), "b": [3.0, 4.0]}, "int8")
    assert [row.tensor for row in found.rows] == ["a", "b"]
    assert [tensor.info.dtype for tensor in found.tensors] == ["bfloat16", "float64"]


# Schemes


def test_formats_meet_granularities_and_block_formats_come_once():
    specs, skipped = combine(None, ["e4m3fn", "mxfp8", "nvfp4"], ["row", "1x32"])
    assert [str(spec) for spec in specs] == ["e4m3fn/row", "e4m3fn/1x32", "mxfp8_e4m3", "nvfp4"]
    assert [entry.scheme for entry in skipped] == ["mxfp8_e4m3/row", "nvfp4/row", "nvfp4/1x32"]
    assert skipped[0].reason == "granularity: mxfp8_e4m3 fixes its blocks at 1x32, got row"


def test_schemes_and_products_add_up_without_repetition():
    specs, skipped = combine(["int8", "e4m3fn"], ["int8"])
    assert [str(spec) for spec in specs] == ["int8", "e4m3fn"]
    assert not skipped
    assert [str(spec) for spec in combine(None)[0]] == [str(formats.parse(text)) for text in DEFAULT_SCHEMES]


def test_what_cannot_be_is_skipped_with_its_reason_and_the_rest_is_measured():
    found = sweep({"x": [[1.0, 2.0]]}, ["nf4:even", "e8m0fnu", "int8"])
    assert [row.scheme for row in found.rows] == ["int8"]
    assert {entry.scheme for entry in found.skipped} == {"nf4:even", "e8m0fnu"}
    assert all(entry.reason and not entry.tensor for entry in found.skipped)


def test_what_a_quantizer_refuses_is_skipped_for_that_tensor_alone():
    def quantize(x, scheme, seed):
        if x.ndim == 1 and scheme == "e5m2":
            raise ValueError("x: vectors are not served")
        return x

    found = sweep({"v": np.ones(4), "m": np.ones((2, 2))}, ["e5m2", "int8"], quantize=quantize)
    assert {(row.tensor, row.scheme) for row in found.rows} == {("v", "int8"), ("m", "e5m2"), ("m", "int8")}
    assert [(entry.tensor, entry.scheme, entry.reason) for entry in found.skipped] == [
        ("v", "e5m2", "x: vectors are not served")
    ]
    assert found.row("v", "e5m2") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schemes": ["e4m3fm/row"]}, "format: unknown name 'e4m3fm'; nearest: e4m3fn"),
        ({"formats": ["int8"], "granularities": ["1x"]}, "granularity: got '1x'"),
        ({"granularities": ["row"]}, "granularities: got them without formats"),
        ({"schemes": ["mxfp8/row"]}, "schemes: none is left to measure: granularity: mxfp8"),
        ({"schemes": []}, "schemes: none is left to measure: none is named"),
        ({"metrics": ["snr"]}, "metrics: got 'snr', accepted: sqnr_db"),
        ({"quantize": lambda x, scheme, seed: formats.parse("no")}, "nothing could be measured: format: unknown"),
    ],
)
def test_mistakes_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sweep({"x": [1.0]}, **arguments)


def test_a_quantizer_that_returns_another_shape_is_a_mistake_and_not_skipped():
    with pytest.raises(ValueError, match=r"actual: got shape \(2,\)"):
        sweep({"x": [1.0]}, ["int8"], quantize=lambda x, scheme, seed: np.zeros(2))


# What is asked of it


def test_quantizers_may_return_values_or_codes():
    seen = []

    def values(x, scheme, seed):
        seen.append((scheme, seed, x.dtype))
        return formats.quantize_reference(x, scheme, seed).dequantize()

    by_values = sweep(["normal"], ["nvfp4"], quantize=values, seed=9, sample=4096)
    by_codes = sweep(["normal"], ["nvfp4"], seed=9, sample=4096)
    assert seen == [("nvfp4", 9, np.float32)]
    assert by_values.rows[0].sqnr_db == pytest.approx(by_codes.rows[0].sqnr_db, abs=1e-9)


def test_metrics_are_chosen_and_the_necessary_ones_stay():
    found = sweep({"x": [[1.0, 3.1]]}, ["int8"], metrics=["gain"])
    assert set(found.rows[0].metrics) == {"gain", "sqnr_db", "underflow", "overflow_clipped"}


def test_a_sample_takes_rows_and_says_so():
    found = sweep(from_distributions(["normal"], size=(64, 32)), ["int8"], sample=512)
    assert found.tensors[0].info.sample == "16 of 64 rows"
    assert found.tensors[0].info.shape == (64, 32)
    assert found.tensors[0].count == 512


def test_progress_is_told_before_each_measurement_and_at_the_end():
    calls = []
    sweep({"x": [1.0], "y": [2.0]}, ["int8", "e5m2"], progress=lambda *call: calls.append(call))
    assert calls == [(0, 4, "x in int8"), (1, 4, "x in e5m2"), (2, 4, "y in int8"), (3, 4, "y in e5m2"), (4, 4, "")]


@pytest.mark.parametrize(
    ("scheme", "shape", "bits"),
    [
        ("e4m3fn", (4, 32), 8 + 32 / 128),
        ("e4m3fn/row", (4, 32), 9.0),
        ("int4/1x16", (2, 40), 4 + 6 * 32 / 80),
        ("mxfp4", (8, 64), 4.25),
        ("nvfp4", (8, 64), 4.5 + 32 / 512),
        ("bf16/col", (64, 2), 16.5),
        ("int8", (0, 3), 8.0),
    ],
)
def test_bits_per_value_include_the_scales(scheme, shape, bits):
    assert bits_per_value(formats.parse(scheme), shape) == bits


def test_statistics_of_a_tensor_leave_out_what_is_not_finite():
    x = np.array([[0.0, -4.0, 1.0, np.nan], [1.5, 2.0, np.inf, 0.25]], dtype=np.float32)
    (tensor,) = sweep({"x": x}, ["int8"]).tensors
    assert tensor.count == 8
    assert tensor.amax == 4.0
    assert tensor.rms == pytest.approx(math.sqrt((16 + 1 + 2.25 + 4 + 0.0625) / 6))
    assert tensor.zeros == 1 / 8
    assert tensor.not_finite == 2 / 8
    # Half binades from 0.25 = 2^-2: 0.25, -, -, -, 1, 1.5, 2, -, 4
    assert (tensor.first_bin, tensor.histogram) == (-4, (1, 0, 0, 0, 1, 1, 1, 0, 1))


@pytest.mark.parametrize("scale", [1e-38, 1e38])
def test_statistics_neither_overflow_nor_vanish(scale):
    x = (np.random.default_rng(0).standard_normal(1000).clip(-3, 3) * scale).astype(np.float32)
    (tensor,) = sweep({"x": x}, ["int8"]).tensors
    assert tensor.rms / scale == pytest.approx(1.0, rel=0.05)
    assert tensor.kurtosis == pytest.approx(3.0, rel=0.2)


@pytest.mark.parametrize("x", [np.zeros((0, 4)), np.zeros((2, 2)), np.full((2, 2), np.nan), np.array(2.5)])
def test_empty_zero_and_spoilt_tensors_have_a_row_and_a_report(x):
    found = sweep({"x": x}, ["e4m3fn/row", "mxfp8", "int8"])
    assert len(found.rows) == 3
    assert isinstance(found.tensors[0], TensorSummary)
    assert SweepResult.from_json(found.to_json()).to_json() == found.to_json()
    assert "x" in found.table()
    assert found.summary()
    assert found.html().count("<section>") >= 5


# Answers


def test_the_best_scheme_has_the_highest_sqnr_within_the_bits(result):
    for limit in (None, 8.3, 4.6):
        best = result.best(max_bits=limit)
        for tensor, choice in best.items():
            allowed = [row for row in result.rows if row.tensor == tensor and row.bits <= (limit or 99)]
            assert choice.sqnr_db == max(row.sqnr_db for row in allowed)
            assert choice.bits <= (limit or 99)
    assert {choice.scheme for choice in result.best().values()} == {"bf16"}
    assert result.best(max_bits=4.6)["gg0.5"].scheme == "nvfp4"
    assert result.best(max_bits=3.0) == {}


def test_the_cheapest_scheme_has_the_fewest_bits_that_reach_the_target(result):
    cheapest = result.cheapest(30.0)
    assert cheapest["uniform"].scheme == "mxfp6_e2m3"
    assert cheapest["gg0.5"].scheme == "e4m3fn"
    assert all(choice.reaches and choice.sqnr_db >= 30.0 for choice in cheapest.values())
    above = result.cheapest(80.0)
    assert {choice.scheme for choice in above.values()} == {"bf16"}
    assert not any(choice.reaches for choice in above.values())
    assert result.cheapest() == result.cheapest(result.target_db)


def test_choices_for_groups_look_at_the_mean_and_the_worst(result):
    (name,), (choice,) = result.best("role", max_bits=8.3).keys(), result.best("role", max_bits=8.3).values()
    rows = [row for row in result.rows if row.scheme == choice.scheme]
    assert name == "distribution"
    assert choice.tensors == len(rows) == 5
    assert choice.sqnr_db == pytest.approx(np.mean([row.sqnr_db for row in rows]))
    assert choice.lowest_db == min(row.sqnr_db for row in rows)
    assert result.cheapest(30.0, per="all")["all"].scheme == "e4m3fn"
    with pytest.raises(ValueError, match="per: got 'layer', accepted: tensor, role, all"):
        result.best("layer")


def test_the_hardest_tensors_come_first(result):
    means = {
        tensor.info.name: np.mean([row.sqnr_db for row in result.rows if row.tensor == tensor.info.name])
        for tensor in result.tensors
    }
    assert list(result.worst_first()) == sorted(means, key=means.get)
    assert result.worst_first()[0] == "gg0.5"


def test_the_table_is_sorted_and_marks_the_best(result):
    lines = result.table(max_bits=8.3).splitlines()
    assert lines[0].split()[:4] == ["tensor", "scheme", "bits", "SQNR"]
    assert len(lines) == 1 + len(result.rows)
    assert lines[1].startswith("gg0.5")
    marked = [line for line in lines if " * " in line]
    assert len(marked) == len(result.tensors)
    assert all(float(line.split("*")[1].split()[0]) <= 8.3 for line in marked)
    assert str(result) == result.table()


def test_the_matrix_has_a_number_for_each_pair(result):
    heads, *lines = result.matrix().splitlines()
    assert heads.split()[1:] == ["nvfp4", "int4/1x32", "mxfp6_e2m3", "e4m3fn", "int8/row", "mxfp8_e4m3", "bf16"]
    assert all(len(line.split()) == 8 for line in lines)
    assert "gain" in result.metric_names
    assert result.matrix("gain") != result.matrix()
    with pytest.raises(ValueError, match="metric: got 'snr', accepted: sqnr_db"):
        result.matrix("snr")


def test_the_summary_says_which_format_for_which_tensor(result):
    text = "\n".join(result.summary())
    assert "5 tensors under 7 schemes: 35 measurements." in text
    assert "Up to 4.5 bits per value: nvfp4 for all (" in text
    assert "For 30 dB (an error of 3.2 % of the rms) the fewest bits:" in text
    assert "Hardest, by mean SQNR over the schemes: gg0.5 (" in text
    unreached = SweepResult(**{**vars_of(result), "target_db": 90.0}).summary()
    assert any("No scheme reaches 90 dB for 5 tensors." in line for line in unreached)


def vars_of(result: SweepResult) -> dict:
    return {name: getattr(result, name) for name in SweepResult.__dataclass_fields__}


def test_curves_over_shapes_come_from_the_names(result):
    (series,) = shape_series(result)
    assert series.x == (0.5, 1.0, 2.0)
    assert series.curves["int8/row"][0] < series.curves["int8/row"][1] < series.curves["int8/row"][2]
    assert shape_series(sweep(["gg1", "gg2"], ["int8"], sample=64)) == []


# JSON


def test_json_comes_back_equal(result, tmp_path):
    text = result.to_json(tmp_path / "sweep.json")
    assert (tmp_path / "sweep.json").read_text() == text
    back = SweepResult.from_json(text)
    assert back == result
    assert back.table() == result.table()
    assert SweepResult.from_dict(result.to_dict()) == result


def test_json_is_strict_and_keeps_what_is_not_finite():
    found = sweep({"exact": [[1.0, 2.0]], "nan": [[math.nan, 1.0]], "zero": [[0.0, 0.0]]}, ["e5m2:static=1", "int8"])
    text = found.to_json()

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)
    back = SweepResult.from_json(text)
    assert back.row("exact", "e5m2:static=1.0").sqnr_db == math.inf
    assert back.to_json() == text
    assert isinstance(back.rows[0], SweepRow)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "other"}', '{"kind": "narrowgauge-sweep", "version": 1}'])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError, match=r"narrowgauge-sweep"):
        SweepResult.from_json(text)


# Reports on models


def test_a_report_on_a_checkpoint_goes_layer_by_layer(tmp_path):
    generator = torch.Generator().manual_seed(0)
    easy, hard = (torch.randn(64, 64, generator=generator) for _ in range(2))
    hard[3, 5] = 300.0
    save_file({"easy": easy, "hard": hard, "norm": torch.ones(64), "bias": torch.ones(64)}, tmp_path / "m.safetensors")
    found = report(tmp_path / "m.safetensors", ["int8", "e4m3fn", "mxfp8"])
    assert found.worst_first() == ("hard", "easy")
    assert found.best()["hard"].scheme != "int8"
    assert found.best()["easy"].scheme == "int8"
    assert found.title == "Number formats for m.safetensors"
    assert {row.role for row in found.rows} == {"weight"}
    (left,) = found.skipped
    assert left.tensor == "bias, norm"
    expected = formats.quantize_reference(easy.numpy(), "int8").dequantize()
    assert found.row("easy", "int8").sqnr_db == pytest.approx(sqnr_db(expected, easy.numpy()), abs=1e-9)


def test_a_report_on_a_module_has_its_weights_and_with_a_loss_its_other_operands():
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    assert {row.role for row in report(model, ["int8"]).rows} == {"weight"}
    x = torch.randn(8, 32)
    found = report(model, ["int8"], loss_fn=lambda model: model(x).square().mean(), title="Mine")
    assert {row.role for row in found.rows} == {"weight", "activation", "gradient"}
    assert found.title == "Mine"
    assert found.best("role").keys() == {"weight", "activation", "gradient"}
    with pytest.raises(TypeError, match="model: got int, accepted: a path"):
        report(3)
