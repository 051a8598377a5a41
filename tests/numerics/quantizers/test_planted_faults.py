"""`check_quantizer` finds every planted fault and names its kind; it passes the correct quantizers."""

from typing import Any

import numpy as np
import pytest

import planted_quantizers as planted
from narrowgauge.formats import parse
from narrowgauge.numerics import check_quantizer

# Frequencies need draws; where every element is compared, a part of the inputs is enough to find a fault.
FEW = 1 << 12


def _options(scheme: str, options: dict[str, Any]) -> dict[str, Any]:
    return options if parse(scheme).stochastic else {"budget": FEW, **options}


def _name(value: Any) -> str | None:
    return getattr(value, "__name__", None) or (value if isinstance(value, str) else "")


@pytest.mark.parametrize(("fn", "scheme", "kind", "options"), planted.CASES, ids=_name)
def test_planted_fault_is_found_and_named(fn, scheme, kind, options):
    report = check_quantizer(fn, scheme, **_options(scheme, options))
    assert not report.ok
    assert any(found.startswith(kind) or kind in found for found in report.kinds), report.table()
    # No other fault of the library is blamed beside it, and nothing stays without a name.
    assert len(report.kinds) == 1 or fn in ALSO, report.table()


ALSO = {planted.nibbles_swapped}  # fails on empty inputs as well


@pytest.mark.parametrize(("fn", "scheme", "options"), planted.CORRECT, ids=_name)
def test_correct_quantizer_passes(fn, scheme, options):
    check_quantizer(fn, scheme, **options).raise_if_failed()


def test_there_are_faults_of_every_kind_of_property():
    kinds = {kind for _, _, kind, _ in planted.CASES}
    assert len(planted.CASES) >= 16
    assert len(kinds) >= 16


def test_message_says_what_was_expected_and_what_came():
    report = check_quantizer(planted.no_saturation, planted.CAST, budget=FEW)
    failure = next(failure for failure in report.failures if failure.check == "saturation")
    assert "expected value 0x7e (448.0) for 512.0 (beyond 448.0), got 0x7f (nan)" in failure.message
    assert "looks like: missing saturation: overflow becomes NaN or infinity (reproduces" in failure.message
    assert failure.example == {"x": [[512.0]]}


def test_message_on_a_tie_names_both_neighbours():
    report = check_quantizer(planted.ties_away, planted.CAST, budget=FEW)
    failure = next(failure for failure in report.failures if failure.check == "midpoints")
    assert "(a tie between" in failure.message
    assert "to even), got" in failure.message
    (row,) = failure.example["x"]
    assert len(row) == 1
    tie = np.float64(row[0])
    assert planted.ties_away(np.array([[tie]])) != planted.saturating_cast(np.array([[tie]], dtype=np.float32))


def test_wrong_scale_is_explained_by_rule_and_amax():
    report = check_quantizer(planted.scale_too_small, planted.ROW, budget=FEW)
    failure = next(failure for failure in report.failures if failure.check == "scale borders")
    assert "expected scale" in failure.message
    assert "(amax rule) for amax" in failure.message


def test_fault_outside_the_library_is_reported_without_a_guess():
    def adds_one(x):
        return planted.saturating_cast(x + np.float32(1))

    report = check_quantizer(adds_one, planted.CAST, budget=FEW)
    assert not report.ok
    assert any("looks like none of the known faults" in failure.message for failure in report.failures)
    assert not any("scale" in kind or "rounding" in kind for kind in report.kinds)


def test_two_faults_at_once_are_both_named():
    def two(x):
        return planted.zero_sign_lost(np.where(np.isnan(x), np.float32(448), x))

    kinds = check_quantizer(two, planted.CAST, budget=FEW).kinds
    assert "sign of zero lost" in kinds
    assert "NaN laundered into the largest value" in kinds


@pytest.mark.parametrize("scheme", ["e4m3fn/1x64+sr", "mxfp4+sr", "e4m3fn:static=0.5+sr"])
def test_stochastic_faults_are_found_under_scales_too(scheme):
    def nearest_for_all_seeds(x, seed):
        return quantize(x, scheme.removesuffix("+sr"))

    from narrowgauge.formats import quantize_reference as quantize

    assert check_quantizer(nearest_for_all_seeds, scheme).kinds == ("no stochastic rounding: rounding to nearest",)
