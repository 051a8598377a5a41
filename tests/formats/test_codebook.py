"""Codebooks: NF4's published table, and exact nearest search over arbitrary tables."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import CodebookFormat

NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def nearest(levels: list[float], x: float) -> set[float]:
    """The level or, at a tie, the two levels nearest to x."""
    distance = {level: abs(Fraction(x) - Fraction(level)) for level in levels}
    least = min(distance.values())
    return {level for level, d in distance.items() if d == least}


def test_nf4_table() -> None:
    fmt = formats.get("nf4")
    assert fmt.values().tolist() == NF4
    assert (fmt.bits, fmt.min, fmt.max, fmt.has_zero, fmt.nan_code) == (4, -1.0, 1.0, True, None)
    assert np.array_equal(fmt.values(), fmt.values().astype(np.float32))


def test_nf4_levels_are_normal_quantiles_to_a_few_1e7() -> None:
    # 8 positive and 7 negative quantiles up to 0.9677083, normalised; published from float32 tensors.
    quantile = np.vectorize(NormalDist().inv_cdf)
    top = 0.9677083
    positive = quantile(np.linspace(top, 0.5, 9)[:-1])
    negative = -quantile(np.linspace(top, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([positive, negative, [0.0]])) / positive.max()
    assert np.abs(expected - NF4).max() < 3e-7


def test_nf4_takes_the_nearest_level_by_exact_search(rng: np.random.Generator) -> None:
    fmt = formats.get("nf4")
    middle = (np.array(NF4[1:]) + np.array(NF4[:-1])) / 2  # exact: the levels are float32
    x = np.concatenate([rng.uniform(-1.2, 1.2, 500), middle, np.nextafter(middle, 9), np.nextafter(middle, -9)])
    for value, q in zip(x.tolist(), fmt.round(x).tolist(), strict=True):
        assert q in nearest(NF4, value), value


def test_ties_go_to_even_rank_or_away() -> None:
    fmt = CodebookFormat(name="ranks", table=(0.0, 1.0, 2.0, 3.0, -1.0))
    x = [-0.5, 0.5, 1.5, 2.5]
    assert fmt.round(x).tolist() == [-1.0, 1.0, 1.0, 3.0]
    assert fmt.round(x, "nearest_away").tolist() == [-1.0, 1.0, 2.0, 3.0]
    assert fmt.round([-0.5, 0.2, 1.2], "to_odd").tolist() == [0.0, 0.0, 2.0]


def test_midpoints_that_float64_cannot_hold_are_told_apart() -> None:
    tiny = 2.0**-80
    fmt = CodebookFormat(name="uneven", table=(-tiny, 1.0))
    # The midpoint is 1/2 - 2^-81: one half lies above it and the float64 before one half below.
    assert fmt.round([0.5, np.nextafter(0.5, 0)]).tolist() == [1.0, -tiny]


@pytest.mark.parametrize(("x", "down", "up"), [(-1e-300, NF4[6], 0.0), (1e-300, 0.0, NF4[8]), (-0.0, 0.0, 0.0)])
def test_directed_modes_see_the_smallest_distance(x: float, down: float, up: float) -> None:
    fmt = formats.get("nf4")
    assert (fmt.round(x, "down"), fmt.round(x, "up"), fmt.round(x, "toward_zero")) == (down, up, 0.0)


def test_stochastic_follows_the_fraction_exactly() -> None:
    fmt = CodebookFormat(name="quarters", table=(0.0, 4.0, 5.0))
    bits = np.arange(16)
    for x, part in ((1.0, 4), (3.75, 15), (4.5, 8)):
        q = fmt.round(np.full(16, x), "stochastic", random_bits=bits, num_random_bits=4)
        below, above = (0.0, 4.0) if x < 4 else (4.0, 5.0)
        assert q.tolist() == [above if part + r >= 16 else below for r in range(16)]


def test_stochastic_keeps_the_last_chance_of_the_lower_neighbour() -> None:
    # -1e-300 lies a hair below 0: its fraction rounds to 1 in float64, its floor in random units is 2^24 - 1.
    q = formats.get("nf4").round(np.full(3, -1e-300), "stochastic", random_bits=[0, 1, 2**24 - 1])
    assert q.tolist() == [NF4[6], 0.0, 0.0]


def test_order_and_repetition_of_the_table_do_not_matter() -> None:
    fmt = CodebookFormat(name="mixed", table=(3.0, float("nan"), -1.0, 3.0, 0.5))
    assert fmt.bits == 3
    assert fmt.encode([3.0, 9.0, -9.0, 0.4]).tolist() == [0, 0, 2, 4]
    assert fmt.nan_code == 1
    assert np.isnan(fmt.decode([1, 5, 6, 7])).all()  # codes beyond the table
    with pytest.raises(ValueError, match="unsigned codes, got -1"):
        fmt.decode([-1])


def test_equal_tables_are_equal_formats() -> None:
    first, second = (CodebookFormat(name="n", table=(0.0, float("nan"), 1.0)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first == copy.deepcopy(first) == pickle.loads(pickle.dumps(first))
    assert first != CodebookFormat(name="n", table=(0.0, 0.5, 1.0))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((1.0,), "needs 2 to 65536 values, got 1"),
        (tuple([0.0] * (2**16 + 1)), "got 65537"),
        ((float("nan"), float("inf")), "has no finite value"),
        ((0.0, 1e308), r"holds 1e\+308, at most 2\^1022"),
    ],
)
def test_impossible_tables_are_refused(table: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^table: .*{message}"):
        CodebookFormat(name="bad", table=table)
