import math
from itertools import pairwise

import numpy as np
import pytest

from narrowgauge.methods.algoperf import Trial, gated, performance_profile, ratios, score, scores, times_to_target

INF = math.inf
GOLDEN = [1.0, 2.0, 3.9, INF]
TIMES = {"a": {"x": 10.0, "y": 30.0, "z": INF}, "b": {"x": 20.0, "y": 10.0, "z": INF}}


def studies(*times: list[float]) -> list[Trial]:
    """Trials of one submission on one workload, a list a study."""
    return [Trial("s", "w", study, time) for study, row in enumerate(times) for time in row]


def test_the_golden_ratios_score_0_425() -> None:
    assert score(GOLDEN) == pytest.approx((1 + 2 / 3 + 0.1 / 3 + 0) / 4, abs=1e-12)
    assert score(GOLDEN) == pytest.approx(0.425, abs=1e-12)


@pytest.mark.parametrize("ratios_of_one", [GOLDEN, [1.0], [INF], [1.0, 1.0, 4.0], [3.999, 4.001, 1.25]])
def test_the_closed_form_is_the_area_below_the_profile(ratios_of_one: list[float]) -> None:
    edges = sorted({1.0, 4.0, *(r for r in ratios_of_one if 1 < r < 4)})
    # The profile is constant between two jumps: its value at the left edge.
    heights = performance_profile(ratios_of_one, edges[:-1])
    area = sum(height * (right - left) for height, (left, right) in zip(heights, pairwise(edges), strict=True))
    assert score(ratios_of_one) == pytest.approx(area / 3, abs=1e-12)


def test_a_profile_never_falls_and_stays_within_0_and_1() -> None:
    profile = performance_profile(GOLDEN, np.linspace(1, 10, 200).tolist())
    assert all(earlier <= later for earlier, later in pairwise(profile))
    assert profile[0] == 0.25
    assert profile[-1] == 0.75


def test_a_ratio_of_exactly_4_counts_nothing() -> None:
    assert score([4.0]) == 0.0
    assert score([1.0, 4.0]) == 0.5


def test_the_unit_of_a_workloads_time_does_not_matter() -> None:
    rescaled = {name: {"x": row["x"] * 60, "y": row["y"] / 7, "z": row["z"]} for name, row in TIMES.items()}
    assert scores(rescaled) == pytest.approx(scores(TIMES))


def test_a_workload_that_nobody_solves_stays_in_the_mean() -> None:
    assert ratios(TIMES)["a"] == {"x": 1.0, "y": 3.0, "z": INF}
    assert scores(TIMES)["a"] == pytest.approx((1 + 1 / 3 + 0) / 3)


def test_without_the_fastest_submission_the_others_only_gain() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        times = {name: {str(w): float(t) for w, t in enumerate(rng.uniform(1, 8, 5))} for name in "abc"}
        before = scores(times)
        for removed in "abc":
            after = scores({name: row for name, row in times.items() if name != removed})
            assert all(after[name] >= before[name] - 1e-12 for name in after)


def test_alone_a_submission_scores_the_share_of_workloads_it_solves() -> None:
    assert scores({"a": {"w": 5.0, "x": 7.0, "y": INF, "z": 1.0}}) == {"a": 0.75}


def test_a_median_over_studies_is_finite_with_two_misses_of_five_and_not_with_three() -> None:
    assert times_to_target(studies([3], [1], [INF], [2], [INF]))["s"]["w"] == 3
    assert times_to_target(studies([3], [1], [INF], [INF], [INF]))["s"]["w"] == INF


def test_the_fastest_trial_is_taken_before_the_median_over_studies() -> None:
    trials = studies([1, 9], [9, 2], [9, 3])
    assert times_to_target(trials)["s"]["w"] == 2
    # The other order, median over studies of each trial first, would give 3.
    assert min(np.median([1, 9, 9]), np.median([9, 2, 3])) == 3


def test_a_submission_without_a_workload_or_a_study_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trials: 'b' has studies \[\] of workload 'w', expected \[0, 1\]"):
        times_to_target(
            [
                Trial("a", "w", 0, 1),
                Trial("a", "w", 1, 1),
                Trial("a", "v", 0, 1),
                Trial("a", "v", 1, 1),
                Trial("b", "v", 0, 1),
                Trial("b", "v", 1, 2),
            ]
        )
    with pytest.raises(ValueError, match=r"trials: 'b' has studies \[0\] of workload 'w', expected \[0, 1\]"):
        times_to_target([Trial("a", "w", 0, 1), Trial("a", "w", 1, 1), Trial("b", "w", 0, 1)])


def test_who_misses_a_variant_has_missed_its_base() -> None:
    times = {"a": {"x": 1.0, "x wide": INF, "y": 2.0}, "b": {"x": 3.0, "x wide": 9.0, "y": INF}}
    assert gated(times, {"x wide": "x"}) == {"a": {"x": INF, "y": 2.0}, "b": {"x": 3.0, "y": INF}}
    with pytest.raises(ValueError, match="variants: unknown workload 'q'"):
        gated(times, {"q": "x"})


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="time: expected a number above 0, or inf, got 0"):
        Trial("s", "w", 0, 0.0)
    with pytest.raises(ValueError, match="time: expected a number above 0, or inf, got nan"):
        Trial("s", "w", 0, math.nan)
    with pytest.raises(ValueError, match="ratios_of_one: expected numbers of at least 1"):
        score([0.5])
    with pytest.raises(ValueError, match="ratios_of_one: expected numbers of at least 1"):
        score([])
    with pytest.raises(ValueError, match="r_max: expected a number above 1, got 1"):
        score([1.0], r_max=1.0)
    with pytest.raises(ValueError, match="ratios_of_one: expected at least one workload"):
        performance_profile([], [1.0])
