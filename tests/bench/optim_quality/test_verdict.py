"""Who is better, by what factor, and why."""

from __future__ import annotations

import math

import pytest

from narrowgauge.bench.optim_quality.table import Better, Role, Standing, Subject, Table
from narrowgauge.bench.optim_quality.verdict import badness, lead, verdicts

SUBJECTS = [Subject("log8", Role.OURS, 2.05), Subject("fat", Role.PEER, 4.0), Subject("thin", Role.PEER, 2.1),
            Subject("control", Role.CONTROL, 2.0)]  # fmt: skip


def table(rows: dict[str, dict[str, float]], better: Better = Better.SMALLER, tolerance: float = 0.05) -> Table:
    return Table("update", "title", ("x",), rows, better, tolerance, ours="log8")


def test_the_smallest_error_is_the_best_and_chance_is_not_a_lead() -> None:
    (verdict,) = verdicts([table({"log8": {"x": 1.0}, "thin": {"x": 0.97}, "fat": {"x": 3.0}})], SUBJECTS)
    assert verdict.standing is Standing.BEST
    assert (verdict.best_peer, verdict.best) == ("thin", 0.97)


def test_a_lead_has_its_factor_and_its_reason() -> None:
    rows = {"log8": {"x": 1.0}, "thin": {"x": 0.8}, "fat": {"x": 0.1}, "control": {"x": 0.0}}
    (verdict,) = verdicts([table(rows)], SUBJECTS)
    assert verdict.ahead == {"thin": pytest.approx(1.25), "fat": pytest.approx(10.0)}
    assert verdict.reasons == {"thin": "not explained", "fat": "4 bytes a parameter"}
    assert verdict.standing is Standing.BEHIND


def test_a_peer_of_twice_the_bytes_is_another_bargain() -> None:
    (verdict,) = verdicts([table({"log8": {"x": 1.0}, "thin": {"x": 2.0}, "fat": {"x": 0.1}})], SUBJECTS)
    assert verdict.standing is Standing.BEST_FOR_ITS_BYTES
    assert (verdict.best_peer, verdict.best, verdict.dearer) == ("thin", 2.0, ["fat"])


def test_ratios_are_compared_by_their_distance_from_one() -> None:
    rows = {"log8": {"x": 0.8}, "thin": {"x": 1.1}}
    (verdict,) = verdicts([table(rows, Better.NEARER_ONE, 0.01)], SUBJECTS)
    assert verdict.ahead["thin"] == pytest.approx(math.log(0.8) / -math.log(1.1))


def test_nan_and_negative_shares_are_as_bad_as_it_gets() -> None:
    assert badness(math.nan, Better.SMALLER) == badness(-0.1, Better.NEARER_ONE) == math.inf
    assert lead(math.nan, 1.0, table({})) is None
    assert lead(1.0, math.nan, table({})) == math.inf
    assert lead(math.nan, math.nan, table({})) is None


def test_tables_without_a_better_or_without_ours_give_none() -> None:
    rows = {"log8": {"x": 1.0}, "thin": {"x": 0.5}}
    assert verdicts([table(rows, Better.NEITHER)], SUBJECTS) == []
    assert verdicts([table({"thin": {"x": 0.5}})], SUBJECTS) == []
