"""Block Householder: the reflection, the groups, and what it does to the variance of stochastic rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowgauge.formats.operand import operand_reference, parse_operand
from narrowgauge.formats.scheme import parse
from narrowgauge.formats.stages import Draw, Householder
from narrowgauge.formats.stages.householder import reflected, row_groups

PTQ, PSQ, BHQ = "uint8+sr+affine", "uint8/row+sr+affine", "uint8/row+sr+affine+bhq"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6, width=32), min_size=0, max_size=70))
def test_groups_are_a_partition_with_the_large_row_first(ranges: list[float]) -> None:
    groups = row_groups(np.asarray(ranges, dtype=np.float32))
    assert sorted(groups.rows.tolist()) == list(range(len(ranges)))
    assert (groups.small == (np.arange(len(ranges)) != groups.first)).all()
    values = np.asarray(ranges, dtype=np.float32)[groups.rows]
    assert (values <= values[groups.first]).all()
    assert (groups.scale >= 1.0).all()


def test_reflection_is_the_matrix_that_maps_the_first_unit_vector_to_equal_parts() -> None:
    rng = np.random.default_rng(0)
    ranges = np.array([50.0, 30.0, *rng.uniform(0.1, 0.2, 11)])
    groups = row_groups(ranges)
    matrix = reflected(np.eye(13), groups)
    expected = np.zeros((13, 13))
    for start in np.unique(groups.first):
        size = int(np.sum(groups.first == start))
        normal = np.full(size, size**-0.5)
        normal[0] -= 1.0
        block = np.eye(size) - (2.0 * np.outer(normal, normal) / (normal @ normal) if size > 1 else 0.0)
        expected[start : start + size, start : start + size] = block
    assert np.unique(groups.first).size == 2
    np.testing.assert_allclose(matrix, expected, atol=1e-14)
    np.testing.assert_allclose(matrix @ matrix, np.eye(13), atol=1e-14)


def test_large_rows_get_small_ones_in_proportion() -> None:
    groups = row_groups(np.array([1.0] * 96 + [300.0, 100.0, 0.5, 0.25]))
    sizes = np.bincount(groups.first)[np.unique(groups.first)]
    assert sizes.tolist() == [75, 25]  # of 98 small rows, 73.5 and 24.5, and the large row itself


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_what_is_undone_is_what_was_there(rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 5)).astype(np.float32)
    stage = Householder()
    mixed, memo = stage.before(x, parse("uint8/row"), Draw())
    np.testing.assert_allclose(stage.after(mixed.astype(np.float64), memo), x, atol=1e-6)


def gradient() -> np.ndarray:
    """Few large rows among small ones."""
    x = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32) * np.float32(0.01)
    x[[3, 17]] *= np.float32(1000.0)
    return x


def drawn(text: str, count: int = 64) -> np.ndarray:
    return np.stack([operand_reference(gradient(), text, Draw(5, i)) for i in range(count)])


def test_variance_falls_from_tensor_to_row_to_householder() -> None:
    ptq, psq, bhq = (float(drawn(text).var(axis=0, ddof=1).sum()) for text in (PTQ, PSQ, BHQ))
    assert ptq > 30.0 * psq
    assert psq > 20.0 * bhq


@pytest.mark.parametrize(("text", "ranges"), [(PTQ, "tensor"), (PSQ, "row")])
def test_measured_variance_is_that_of_the_theory(text: str, ranges: str) -> None:
    # Stochastic rounding on steps s has the variance s² p (1 - p), s² / 6 for p that is uniform; s = range / 255.
    x = gradient().astype(np.float64)
    axis = None if ranges == "tensor" else 1
    step = (x.max(axis=axis, keepdims=True) - x.min(axis=axis, keepdims=True)) / 255.0
    measured = drawn(text).var(axis=0, ddof=1).sum()
    share = (x - x.min(axis=axis, keepdims=True)) / step % 1.0
    exact = float((share * (1.0 - share) * step**2).sum())
    assert measured == pytest.approx(exact, rel=0.05)
    if ranges == "row":
        assert measured == pytest.approx(float(np.sum(np.broadcast_to(step, x.shape) ** 2)) / 6.0, rel=0.2)
    # The paper's bound: D / 4 steps squared.
    assert measured <= float(np.sum(np.broadcast_to(step, x.shape) ** 2)) / 4.0


def test_householder_stays_below_its_bound() -> None:
    # Each mixed row: steps of its own range / 255; undone by H and 1 / s. Var <= Σ_i Σ_j H_ij² s_i^-2 step_j² / 4.
    x = gradient()
    mixed, memo = Householder().before(x, parse("uint8/row"), Draw())
    step = (mixed.max(axis=1) - mixed.min(axis=1)).astype(np.float64)[memo.rows] / 255.0
    weights = reflected(np.eye(64), memo) ** 2 / memo.scale[:, None] ** 2
    bound = float((weights @ step**2).sum()) * 96 / 4.0
    measured = float(drawn(BHQ).var(axis=0, ddof=1).sum())
    assert 0.5 * bound < measured < bound


def test_estimate_has_no_bias() -> None:
    samples = drawn(BHQ, 256)
    error = samples.mean(axis=0) - gradient()
    z = error / (samples.std(axis=0, ddof=1) / 16.0 + 1e-5)  # the ends of a range are exact
    assert np.abs(z).max() < 6.0
    assert abs(float(z.mean())) < 0.1


def test_one_nan_spoils_its_group_alone() -> None:
    x = gradient()
    x[40, 3] = np.nan
    values = operand_reference(x, BHQ, Draw())
    spoiled = np.isnan(values).all(axis=1)
    assert spoiled[40]
    assert not np.isnan(values[~spoiled]).any()
    assert 1 < spoiled.sum() < 64


def test_needs_one_scale_per_row() -> None:
    with pytest.raises(ValueError, match="goes with one scale per row"):
        parse_operand("uint8+bhq+affine")
