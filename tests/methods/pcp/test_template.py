import pytest

from narrowgauge.methods.pcp import Prompt, Text

SINGLE = Prompt(words=(b"bad", b"top"), before=b" It was ", after=b".", max_length=40)
PAIR = Prompt(words=(b"Yes", b"Not", b"May"), before=b" ? ", after=b", ", max_length=40)


def test_the_template_is_filled_in_byte_for_byte() -> None:
    assert SINGLE.fill(Text(b"Fine film."), 1) == b"Fine film. It was top."
    assert PAIR.fill(Text(b"He sleeps", b"he is awake"), 1) == b"He sleeps ? Not, he is awake"


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("text", [b"Fine.", b"It was bad. It was top", b" It was bad.", b"x" * 100, b""])
def test_a_single_text_is_taken_back_from_its_row(text: bytes, label: int) -> None:
    row = SINGLE.fill(Text(text), label)
    assert SINGLE.parse(row) == (SINGLE.cut(Text(text)), label)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_pair_is_taken_back_from_its_row(label: int) -> None:
    text = Text(b"Is it? Yes, it is", b"? Yes it is not")
    assert PAIR.parse(PAIR.fill(text, label), pair=True) == (PAIR.cut(text), label)


def test_rows_that_cannot_be_taken_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the template once, it is 0 times"):
        SINGLE.parse(b"Fine. It was so.")
    with pytest.raises(ValueError, match="expected the template once, it is 2 times"):
        PAIR.parse(PAIR.fill(Text(b"a ? Yes, b", b"c"), 0), pair=True)


@pytest.mark.parametrize("first", [0, 5, 16, 17, 30, 34, 80])
@pytest.mark.parametrize("second", [0, 5, 17, 18, 80])
def test_texts_are_cut_and_the_word_never(first: int, second: int) -> None:
    text = Text(b"a" * first, b"b" * second)
    row = PAIR.fill(text, 2)
    slot = PAIR.slot(text)
    assert len(row) == min(40, first + second + 8)
    assert row[slot : slot + 3] == b"May"
    assert b" ? May, " in row
    kept = PAIR.cut(text)
    if first + second > PAIR.room:  # the longer one gave way, and not below the other
        assert len(kept.first) >= min(first, PAIR.room // 2)
        assert len(kept.second) >= min(second, PAIR.room // 2)
    else:
        assert kept == text


def test_a_text_that_fits_exactly_is_not_cut() -> None:
    text = Text(b"x" * SINGLE.room)
    assert SINGLE.cut(text) == text
    assert len(SINGLE.fill(text, 0)) == SINGLE.max_length


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": (b"bad",)}, "words: expected two different words"),
        ({"words": (b"bad", b"bad")}, "words: expected two different words"),
        ({"words": (b"bad", b"great")}, "words: expected words of the same number of bytes"),
        ({"words": (b"", b"")}, "words: expected two different words"),
        ({"words": (b"a", b"b"), "before": b""}, "before: expected at least one byte"),
        ({"words": (b"a", b"b"), "max_length": 10}, "max_length: template and word take 10 bytes"),
    ],
)
def test_prompts_that_do_not_work_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompt(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [-1, 2])
def test_a_class_without_a_word_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=r"label: expected 0 … 1"):
        SINGLE.fill(Text(b"a"), label)
