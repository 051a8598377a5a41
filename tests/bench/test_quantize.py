"""The suite `quantize` checks before it times, compares fairly, and says what is missing."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench import peers
from narrowgauge.bench.quantize import check_conformance, own_quantizer, run_suite
from narrowgauge.formats import parse

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
