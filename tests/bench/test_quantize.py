"""The suite `quantize` checks before it times, compares fairly, and says what is missing."""

from __future__ import annotations

import json

import pytest
import torch

from narrowgauge.bench import describe_machine, peers, write_result
from narrowgauge.bench.conformance import check_samples
from narrowgauge.bench.quantize import check_conformance, own_quantizer, run_suite
from narrowgauge.formats import parse
from narrowgauge.kernels import get_op

QUICK = {"size": 64, "repetitions": 9, "compiled": False}


@pytest.fixture(scope="module")
def result():
    return run_suite(scheme="e4m3fn/row", **QUICK)


def test_baseline_has_ratio_one(result) -> None:
    (clone,) = (row for row in result.rows if row.name == result.baseline)
    assert clone.ratio == 1.0


def test_every_row_has_a_time_a_rate_and_a_note(result) -> None:
    for row in result.rows:
        assert row.figures["milliseconds"] > 0
        assert row.figures["gb_per_s"] > 0
        assert row.note


def test_peers_give_the_same_codes(result) -> None:
    rows = {row.name: row for row in result.rows}
    for name in ("ml_dtypes", "gfloat"):
        assert rows[name].figures["codes_equal_percent"] == 100.0


def test_a_slice_counts_as_often_as_it_fits_into_the_whole() -> None:
    found, _ = peers.find_peers(torch.randn(256, 32), parse("e4m3fn/row"))
    assert found["gfloat"].factor == 256 / peers.GFLOAT_ROWS


def test_what_is_not_timed_is_named_with_the_reason(result) -> None:
    assert result.skipped["compiled"] == "left out as asked"
    expected = set(peers.PEERS) | {"clone", "eager", "compiled"}
    assert {row.name for row in result.rows} | set(result.skipped) == expected


def test_peers_that_cannot_serve_a_scheme_say_why() -> None:
    _, skipped = peers.find_peers(torch.randn(4, 64), parse("int8/row"))
    assert skipped["ml_dtypes"] == skipped["gfloat"] == "does not know int8"
    _, skipped = peers.find_peers(torch.randn(4, 64), parse("mxfp8"))
    assert "schemes per tensor or row, not mxfp8" in skipped["ml_dtypes"]


@pytest.mark.parametrize("scheme", ["int8/row", "mxfp8", "nvfp4", "rf8/row", "e4m3fn/1x128+sr"])
def test_every_kind_of_scheme_can_be_timed(scheme: str) -> None:
    assert [row.name for row in run_suite(scheme=scheme, peers=False, **QUICK).rows] == ["clone", "eager"]


def test_wrong_codes_are_noticed() -> None:
    spec, x = parse("e4m3fn/row"), torch.randn(8, 16)
    right = own_quantizer(spec)

    def wrong(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes, scale = right(x)
        codes[3, 5] ^= 1
        return codes, scale

    check_conformance(x, spec, right)
    with pytest.raises(AssertionError, match=r"1 of 128 elements differ; first at \(3, 5\)"):
        check_conformance(x, spec, wrong)


def test_size_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="size: expected at least 1, got 0"):
        run_suite(0)


@pytest.mark.slow
def test_compiled_quantizer_is_timed_after_its_bits_were_compared() -> None:
    result = run_suite(64, repetitions=9, peers=False)
    assert [row.name for row in result.rows] == ["clone", "eager", "compiled"]


def test_result_file_has_hardware_and_versions(result, tmp_path) -> None:
    path = write_result(result, tmp_path / "results" / "quantize.json")
    content = json.loads(path.read_text())
    assert content["machine"]["torch"] == torch.__version__
    assert content["settings"]["scheme"] == "e4m3fn/row"
    assert content["rows"][0]["timing"]["repetitions"] == 9
    assert content["written"].endswith("+00:00")
    assert [item.name for item in path.parent.iterdir()] == ["quantize.json"]


def test_machine_names_what_was_measured_on() -> None:
    machine = describe_machine()
    assert machine.threads == torch.get_num_threads()
    assert machine.cores >= 1
    assert machine.cpu
    assert (machine.gpu is None) == (not torch.cuda.is_available())


def test_conformance_runs_every_sample_of_an_op() -> None:
    assert check_samples(get_op("dequantize")) > 50
