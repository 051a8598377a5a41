import pytest
import torch

from narrowgauge.methods.pcp import Prompt, Row, Text, build_corpus, raw_corpus, row_stream, tuning_rows
from narrowgauge.methods.pcp.rows import collate

PROMPT = Prompt(words=(b"bad", b"top"), before=b" It was ", after=b".", max_length=32)
TEXTS = [Text(b"Fine film"), Text(b"Much too long for a row of thirty-two"), Text(b"No")]


def learned(row: Row) -> bytes:
    """What the loss asks for, read from a batch."""
    labels = collate([row], 40)["labels"][0]
    return bytes(labels[labels >= 0].tolist())


def test_the_corpus_teaches_every_byte_of_the_filled_template() -> None:
    rows = build_corpus(TEXTS, [1, 0, 0], PROMPT)
    assert [row.data for row in rows] == [
        PROMPT.fill(text, label) for text, label in zip(TEXTS, (1, 0, 0), strict=True)
    ]
    assert all(learned(row) == row.data[1:] for row in rows)


def test_tuning_teaches_the_word_alone_in_the_same_rows() -> None:
    rows = tuning_rows(TEXTS, [1, 0, 0], PROMPT)
    assert [row.data for row in rows] == [row.data for row in build_corpus(TEXTS, [1, 0, 0], PROMPT)]
    assert [learned(row) for row in rows] == [b"top", b"bad", b"bad"]


def test_the_raw_corpus_has_the_text_and_nothing_of_the_template() -> None:
    rows = raw_corpus([*TEXTS, Text(b"one", b"two")], PROMPT)
    assert [row.data for row in rows] == [b"Fine film", b"Much too long for a row of thirt", b"No", b"one two"]
    assert all(learned(row) == row.data[1:] for row in rows)


def test_with_true_labels_for_pseudo_labels_the_corpus_is_the_same() -> None:
    gold = [0, 1, 1]
    pseudo = torch.tensor(gold)
    assert build_corpus(TEXTS, pseudo.tolist(), PROMPT) == build_corpus(TEXTS, gold, PROMPT)


def test_a_label_for_each_text_is_needed() -> None:
    with pytest.raises(ValueError, match="labels: expected 3, one for each text, got 2"):
        build_corpus(TEXTS, [0, 1], PROMPT)
    with pytest.raises(ValueError, match="label: expected 0 … 1, got 2"):
        tuning_rows(TEXTS, [0, 1, 2], PROMPT)


def test_each_row_comes_once_an_epoch() -> None:
    rows = build_corpus(TEXTS, [1, 0, 0], PROMPT)
    stream = row_stream(rows, PROMPT, batch_size=1, seed=0)
    for _ in range(2):
        seen = {bytes(token for token in next(stream)["input_ids"][0].tolist() if token < 256) for _ in rows}
        assert seen == {row.data[:-1] for row in rows}
