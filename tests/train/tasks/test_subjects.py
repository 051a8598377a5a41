from collections import Counter

import pytest

from narrowgauge.train.tasks import TaskSource, subject_example, subjects
from narrowgauge.train.tasks.subjects import SUBJECTS


@pytest.mark.parametrize(
    ("subject", "letters", "answer"),
    [
        ("reverse", "bcab", "bacb"),
        ("next", "bcap", "cdba"),
        ("count", "bcab", "2"),
        ("sort", "bcab", "abbc"),
        ("double", "bcab", "bbccaabb"),
        ("ends", "bcad", "bd"),
    ],
)
def test_every_subject_does_what_it_says(subject: str, letters: str, answer: str) -> None:
    example = subject_example(subject, letters)
    assert example.prompt.decode() == f"{subject[0]}:{letters}="
    assert example.answer.decode() == answer
    assert (example.subject, example.level) == (subject, len(letters))


def test_the_subjects_can_be_told_apart_by_their_letter() -> None:
    assert len({subject[0] for subject in SUBJECTS}) == len(SUBJECTS) == 6


def test_each_subject_and_level_has_the_same_number_easy_ones_first() -> None:
    split = subjects(170, 30, seed=0)
    assert set(Counter((e.subject, e.level) for e in split.train).values()) == {170}
    assert set(Counter((e.subject, e.level) for e in split.validation).values()) == {30}
    assert len({e.prompt for e in split.train + split.validation}) == 6 * 3 * 200
    keys = [(list(SUBJECTS).index(e.subject), e.level) for e in split.train]
    assert keys == sorted(keys)


def test_they_are_examples_of_a_task_source() -> None:
    split = subjects(4, 2, seed=0)
    source = TaskSource(split.train, split.validation, batch_size=4, seq_len=24, seed=0)
    assert next(source)["input_ids"].shape == (4, 24)


def test_more_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="different problems"):
        subjects(200, 100, seed=0)
    with pytest.raises(ValueError, match="levels"):
        subjects(2, 1, seed=0, levels=(0, 2))
