import pytest

from narrowgauge.train.tasks.draws import Draws


def test_choices_depend_on_seed_and_purpose_alone() -> None:
    first = [Draws(1, "a").below(1000) for _ in range(2)]
    assert first[0] == first[1]
    streams = {tuple(draws.below(1000) for _ in range(4)) for draws in (Draws(1, "a"), Draws(2, "a"), Draws(1, "b"))}
    assert len(streams) == 3


def test_the_stream_stays_what_it_is() -> None:
    """Examples of committed results are made of it; a change here changes them all."""
    draws = Draws(0, "golden")
    assert [draws.below(1000) for _ in range(6)] == [220, 803, 67, 684, 794, 514]


def test_a_shuffle_is_a_permutation_and_uniform_enough() -> None:
    draws = Draws(0, "shuffle")
    counts = [0, 0, 0]
    for _ in range(3000):
        mixed = draws.shuffled("abc")
        assert sorted(mixed) == ["a", "b", "c"]
        counts[mixed.index("a")] += 1
    assert all(abs(count - 1000) < 130 for count in counts)  # 5 sigma


def test_between_includes_both_ends_and_chance_has_its_rate() -> None:
    draws = Draws(0, "ends")
    assert {draws.between(2, 4) for _ in range(100)} == {2, 3, 4}
    assert sum(draws.chance(0.3) for _ in range(3000)) == pytest.approx(900, abs=126)  # 5 sigma
    assert not any(draws.chance(0.0) for _ in range(100))
    assert all(draws.chance(1.0) for _ in range(100))


def test_distinct_items_differ() -> None:
    draws = Draws(0, "distinct")
    assert all(len(set(draws.distinct("abcdef", 4))) == 4 for _ in range(50))
    with pytest.raises(ValueError, match="count"):
        draws.distinct("ab", 3)


def test_text_has_its_length_and_alphabet() -> None:
    text = Draws(0, "text").text(200, "xyz")
    assert len(text) == 200
    assert set(text) == set("xyz")
