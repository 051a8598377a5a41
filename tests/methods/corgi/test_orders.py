from collections import Counter
from itertools import groupby, pairwise

import pytest

from narrowgauge.methods.corgi import Catalogue, blocking, capped, clustering, interleaving, spiral

# Levels and subjects in no order, five of each pair but one.
SUBJECTS = ["b", "a", "c"] * 15 + ["b"]
LEVELS = [30, 10, 20, 20, 30, 10, 10, 20, 30] * 5 + [20]
ITEMS = Catalogue.of(SUBJECTS, LEVELS)
PERMUTATIONS = {
    "interleaving": interleaving(ITEMS),
    "proportional": interleaving(ITEMS, proportional=True),
    "blocking": blocking(ITEMS),
    "clustering": clustering(ITEMS),
    "spiral": spiral(ITEMS, 3),
    "reversed": interleaving(ITEMS.reversed()),
}


@pytest.mark.parametrize("order", PERMUTATIONS.values(), ids=PERMUTATIONS)
def test_each_example_comes_exactly_once(order: list[int]) -> None:
    assert sorted(order) == list(range(len(SUBJECTS)))


@pytest.mark.parametrize("name", ["interleaving", "proportional", "clustering"])
def test_the_level_never_falls(name: str) -> None:
    assert all(LEVELS[a] <= LEVELS[b] for a, b in pairwise(PERMUTATIONS[name]))


def test_reversed_the_level_never_rises() -> None:
    assert all(LEVELS[a] >= LEVELS[b] for a, b in pairwise(PERMUTATIONS["reversed"]))


def test_interleaving_has_every_subject_once_in_a_turn() -> None:
    for _, members in groupby(interleaving(ITEMS), key=lambda i: LEVELS[i]):
        drawn = [SUBJECTS[i] for i in members]
        for start in range(0, 13):  # every window of three, while all queues have examples
            assert set(drawn[start : start + 3]) == {"a", "b", "c"}


def test_interleaving_follows_its_definition_where_queues_run_out() -> None:
    queues = {
        (s, lv): [i for i in range(46) if (SUBJECTS[i], LEVELS[i]) == (s, lv)] for s in "bac" for lv in (10, 20, 30)
    }
    expected = []
    for level in (10, 20, 30):
        while any(queues[s, level] for s in "bac"):
            expected += [queues[s, level].pop(0) for s in "bac" if queues[s, level]]
    assert interleaving(ITEMS) == expected


def test_ties_keep_the_examples_own_order() -> None:
    for order in PERMUTATIONS.values():
        for pair in set(zip(SUBJECTS, LEVELS, strict=True)):
            members = [i for i in order if (SUBJECTS[i], LEVELS[i]) == pair]
            assert members == sorted(members)


def test_blocking_changes_the_subject_as_seldom_as_can_be_and_rises_inside() -> None:
    order = blocking(ITEMS)
    assert sum(SUBJECTS[a] != SUBJECTS[b] for a, b in pairwise(order)) == 2
    assert all(LEVELS[a] <= LEVELS[b] for a, b in pairwise(order) if SUBJECTS[a] == SUBJECTS[b])


def test_clustering_keeps_the_subjects_of_a_level_together() -> None:
    order = clustering(ITEMS)
    assert sum(SUBJECTS[a] != SUBJECTS[b] for a, b in pairwise(order) if LEVELS[a] == LEVELS[b]) == 3 * 2


def test_each_round_of_the_spiral_has_a_share_of_everything_and_rises() -> None:
    items = Catalogue.of(["a", "b"] * 18, [1, 1, 2, 2, 3, 3] * 6)
    order = spiral(items, 3)
    for start in (0, 12, 24):
        part = order[start : start + 12]
        assert Counter((items.subject[i], items.level[i]) for i in part) == {
            (s, v): 2 for s in (0, 1) for v in range(3)
        }
        assert [items.level[i] for i in part] == [0] * 4 + [1] * 4 + [2] * 4


def test_proportional_interleaving_leaves_no_tail_of_the_largest_subject() -> None:
    items = Catalogue.of(["a"] * 30 + ["b"] * 10, [0] * 40)
    assert [items.subject[i] for i in interleaving(items)][20:] == [0] * 20
    mixed = [items.subject[i] for i in interleaving(items, proportional=True)]
    assert all(mixed[start : start + 4].count(1) == 1 for start in range(0, 40, 4))


def test_capped_goes_through_the_levels_up_to_a_stage_before_any_comes_again() -> None:
    items = Catalogue.of([0] * 12, [1, 2, 3] * 4)
    order = capped(items, 2, seed=0)
    assert len(order) == 24
    stages = [order[:8], order[8:16], order[16:]]
    assert [max(items.level[i] for i in stage) for stage in stages] == [0, 1, 2]
    assert sorted(stages[0][:4]) == sorted(stages[0][4:]) == [0, 3, 6, 9]
    assert stages[0][:4] != stages[0][4:]
    assert len(set(stages[1])) == 8
    assert len(set(stages[2])) == 8


def test_orders_with_a_seed_repeat_and_differ_by_it() -> None:
    assert capped(ITEMS, 2, seed=1) == capped(ITEMS, 2, seed=1)
    assert capped(ITEMS, 2, seed=1) != capped(ITEMS, 2, seed=2)


def test_levels_may_have_several_parts() -> None:
    items = Catalogue.of("aaaa", [(2, 1), (1, 2), (1, 1), (2, 0)])
    assert items.level == (3, 1, 0, 2)
    assert interleaving(items) == [2, 1, 3, 0]


def test_a_catalogue_of_nothing_or_of_unequal_lengths_is_refused() -> None:
    for subjects, levels in (([], []), (["a"], [1, 2])):
        with pytest.raises(ValueError, match="levels: expected one for each of"):
            Catalogue.of(subjects, levels)
