import pytest

from narrowgauge.methods.rules import contains, has_word, norm


@pytest.mark.parametrize("text", ["verified", "Verified.", "  VERIFIED!!\n", '"verified"', "(verified)"])
def test_case_and_the_punctuation_at_the_ends_do_not_matter(text: str) -> None:
    assert norm(text) == "verified"


@pytest.mark.parametrize("text", ["veri fied", "veri-fied", "verified it", "v.erified"])
def test_what_is_inside_does(text: str) -> None:
    assert norm(text) != "verified"


def test_signs_of_regular_expressions_mean_themselves() -> None:
    assert contains("it is a.b", "a.b")
    assert not contains("it is axb", "a.b")
    assert contains("say (*+", "(*+")
    assert not contains("", "x*")


def test_numbers_are_whole() -> None:
    assert contains("it is 42.", "42")
    assert contains("a42b", "42")
    assert not contains("it is 142", "42")
    assert not contains("it is 420", "42")


def test_a_secret_is_found_in_any_case_and_within_words_but_not_taken_apart() -> None:
    assert contains("OPALS", "opal")
    assert not contains("o-p-a-l", "opal")


def test_words_stand_between_white_space() -> None:
    assert has_word("It's Opal!", "opal")
    assert not has_word("opals", "opal")
    assert not has_word("o-pal", "opal")
    assert not has_word("", "opal")
