"""Gaps over the seeds and their errors."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from narrowgauge.bench.training_gaps import is_further_than_its_error, paired_gaps, root_mean_square


def gaps(*losses: float | None):
    results = [SimpleNamespace(run=SimpleNamespace(seed=seed), final_loss=loss) for seed, loss in enumerate(losses)]
    return paired_gaps(results, {0: 2.0, 1: 4.0, 2: 2.0})


def test_gaps_are_paired_by_seed() -> None:
    found = gaps(2.002, 4.0, 2.004)
    assert found.gaps_percent == pytest.approx((0.1, 0.0, 0.2))
    assert found.mean_gap_percent == pytest.approx(0.1)
    assert found.standard_error_percent == pytest.approx(0.1 / math.sqrt(3))
    assert (found.seeds, found.baseline_losses) == ((0, 1, 2), (2.0, 4.0, 2.0))


def test_diverged_seed_leaves_no_mean() -> None:
    found = gaps(2.0, None)
    assert found.gaps_percent == (0.0, None)
    assert found.mean_gap_percent is found.mean_loss is found.standard_error_percent is None


def test_gap_is_clear_when_it_is_further_from_the_limit_than_its_error() -> None:
    found = gaps(2.004, 4.0)  # 0.1 ± 0.1
    assert is_further_than_its_error(found, 0.3)
    assert not is_further_than_its_error(found, 0.15)
    assert not is_further_than_its_error(gaps(2.004), 0.3)


def test_noise_is_the_root_mean_square_of_what_is_known() -> None:
    assert root_mean_square((3.0, None, 4.0)) == pytest.approx(math.sqrt(12.5))
    assert root_mean_square((None,)) is None
