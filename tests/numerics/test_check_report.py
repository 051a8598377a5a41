"""The report of a check: verdict, text, plain data."""

import json

import pytest

from narrowgauge.numerics import CheckReport, Failure

GOOD = CheckReport("mine", ("shapes", "zeros"), measurements={"error / bound": 0.25})
BAD = CheckReport(
    "mine",
    ("shapes", "zeros"),
    (
        Failure("shapes", "1x1: got 2, expected 1", "wrong factor", {"m": 1}),
        Failure("zeros", "got 1", "wrong factor"),
        Failure("elsewhere", "raised", "raised ValueError"),
    ),
)


def test_a_report_without_failures_is_ok_and_raises_nothing() -> None:
    assert GOOD.ok
    assert GOOD.kinds == ()
    GOOD.raise_if_failed()


def test_failures_make_an_assertion_error_with_every_message_and_kind() -> None:
    assert not BAD.ok
    with pytest.raises(AssertionError, match=r"mine: 3 failures") as caught:
        BAD.raise_if_failed()
    for text in ("wrong factor", "1x1: got 2, expected 1", "raised ValueError"):
        assert text in str(caught.value)


def test_kinds_are_named_once() -> None:
    assert BAD.kinds == ("wrong factor", "raised ValueError")


def test_the_table_has_a_line_per_check_and_per_failure() -> None:
    lines = BAD.table().splitlines()
    assert lines[0] == "mine: 2 checks, 3 failures"
    assert [line.split()[0] for line in lines[1:]] == ["shapes", "[wrong", "zeros", "[wrong", "elsewhere"]
    assert "error / bound  0.25" in GOOD.table()


def test_the_dictionary_survives_json() -> None:
    data = json.loads(json.dumps(BAD.to_dict()))
    assert data["ok"] is False
    assert data["failures"][0] == {
        "check": "shapes",
        "kind": "wrong factor",
        "message": "1x1: got 2, expected 1",
        "example": {"m": 1},
    }


def test_measurements_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        GOOD.measurements["error / bound"] = 0.0  # type: ignore[index]
