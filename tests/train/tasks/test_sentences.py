import re

import pytest

from narrowgauge.train.tasks import sentence_corpus


def test_every_sentence_is_true() -> None:
    lines = sentence_corpus(300, seed=0).train.tobytes().decode().splitlines()
    assert len(lines) == 270
    kinds = set()
    for line in lines:
        numbers = [int(number) for number in re.findall(r"\d+", line)]
        kinds.add(line.startswith("the sum"))
        assert numbers[2] == (numbers[0] + numbers[1] if line.startswith("the sum") else numbers[0] * numbers[1])
    assert kinds == {True, False}


def test_it_is_a_pure_function_of_the_seed() -> None:
    assert sentence_corpus(50, seed=0).fingerprint == sentence_corpus(50, seed=0).fingerprint
    assert sentence_corpus(50, seed=0).fingerprint != sentence_corpus(50, seed=1).fingerprint


def test_a_corpus_needs_two_sentences() -> None:
    with pytest.raises(ValueError, match="count"):
        sentence_corpus(1, seed=0)
