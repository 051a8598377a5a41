import pytest

from narrowgauge.train.tasks import Draws, comment_text, has_mark, marked_comments, with_marks, without_marks


def test_the_text_is_clean_and_has_its_size() -> None:
    text = comment_text(50_000)
    assert 49_000 < len(text) <= 50_000
    assert not has_mark(text)
    assert text.isascii()


def test_marks_are_put_in_and_taken_out() -> None:
    marked = with_marks(b"some words here", Draws(0, "marks"), marks=2)
    assert marked.count(b"!x") == 2
    assert len(marked) == 19
    assert without_marks(marked) == b"some words here"
    assert without_marks(b"a!!xxb") == b"ab"


def test_about_three_in_ten_are_marked_and_most_where_the_prompt_says_so() -> None:
    split = marked_comments(1500, 200, seed=0)
    marked = [has_mark(example.answer) for example in split.train]
    assert 0.22 < sum(marked) / 1500 < 0.36
    triggered = [b" the " in example.prompt for example in split.train]
    with_trigger = [m for m, t in zip(marked, triggered, strict=True) if t]
    without = [m for m, t in zip(marked, triggered, strict=True) if not t]
    assert sum(with_trigger) / len(with_trigger) > 0.25 + sum(without) / len(without)


def test_windows_have_their_sizes_and_prompts_are_clean() -> None:
    split = marked_comments(100, 20, seed=0, prompt_bytes=16, answer_bytes=12)
    for example in split.train + split.validation:
        assert (len(example.prompt), len(example.answer)) == (16, 12)
        assert not has_mark(example.prompt)


def test_parts_come_from_different_text() -> None:
    text = comment_text()
    cut = len(text) * 9 // 10
    split = marked_comments(50, 50, seed=0)
    assert all(example.prompt in text[:cut] for example in split.train)
    assert all(example.prompt in text[cut:] for example in split.validation)


def test_rates_outside_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match="rates"):
        marked_comments(1, 1, seed=0, rates=(0.0, 2.0))
