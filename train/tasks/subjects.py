"""Six subjects of string exercises at three levels, for curricula: ``reverse:bcad=`` → ``dacb``.

| subject | exercise | ``bcab`` → |
|---|---|---|
| ``reverse`` | backwards | ``bacb`` |
| ``next`` | each letter's successor in the alphabet, the last one's is the first | ``cdbc`` |
| ``count`` | how often the first letter comes | ``2`` |
| ``sort`` | in alphabetical order | ``abbc`` |
| ``double`` | every letter twice | ``bbccaabb`` |
| ``ends`` | the first and the last letter | ``bb`` |

The level is the string's length. Each example carries its subject and level, which is what an order of learning is
made of (CORGI, arXiv 2310.09518). In the prompt the subject is its first letter: ``r:bcad=``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tasks.split import distinct

ALPHABET = "abcdefghijklmnop"
LEVELS = (2, 4, 6)


def _next(letters: str) -> str:
    return "".join(ALPHABET[(ALPHABET.index(letter) + 1) % len(ALPHABET)] for letter in letters)


SUBJECTS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "reverse": lambda letters: letters[::-1],
        "next": _next,
        "count": lambda letters: str(letters.count(letters[0])),
        "sort": lambda letters: "".join(sorted(letters)),
        "double": lambda letters: "".join(letter * 2 for letter in letters),
        "ends": lambda letters: letters[0] + letters[-1],
    }
)
"""Name of the subject → what is done with a string of letters of :data:`ALPHABET`."""


@dataclass(frozen=True, slots=True)
class SubjectExample(Example):
    """An example that knows where it belongs: ``subject`` is a key of :data:`SUBJECTS`, ``level`` a length."""

    subject: str
    level: int


class SubjectSplit(NamedTuple):
    """Exercises to train on and held-out ones, each subject by subject and level by level, easy ones first."""

    train: list[SubjectExample]
    validation: list[SubjectExample]


def subject_example(subject: str, letters: str) -> SubjectExample:
    """The exercise of one subject with these letters."""
    if subject not in SUBJECTS:
        raise ValueError(f"subject: expected one of {', '.join(SUBJECTS)}, got {subject!r}")
    if not letters or set(letters) - set(ALPHABET):
        raise ValueError(f"letters: expected some of {ALPHABET}, got {letters!r}")
    answer = SUBJECTS[subject](letters)
    return SubjectExample(f"{subject[0]}:{letters}=".encode(), answer.encode(), subject, len(letters))


def subjects(train_each: int, validation_each: int, *, seed: int, levels: Sequence[int] = LEVELS) -> SubjectSplit:
    """``train_each`` + ``validation_each`` different exercises for every subject and level.

    A level of two letters has 256 of them. Raises ``ValueError`` for numbers below 1, or more than there are.
    """
    for name, number in (("train_each", train_each), ("validation_each", validation_each), ("levels", min(levels))):
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
    split = SubjectSplit([], [])
    for subject in SUBJECTS:
        for level in levels:
            strings = _strings(level, train_each + validation_each, Draws(seed, f"subjects:{subject}:{level}"))
            examples = [subject_example(subject, letters) for letters in strings]
            split.train.extend(examples[:train_each])
            split.validation.extend(examples[train_each:])
    return split


def _strings(length: int, count: int, draws: Draws) -> list[str]:
    def make(draws: Draws) -> str:
        return draws.text(length, ALPHABET)

    return distinct(make, str, count, draws)
