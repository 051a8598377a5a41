import pytest

from narrowgauge.train.tasks import Example, ExampleStream, batch_of_pairs, cipher
from narrowgauge.train.tokens import BOS, EOS, PAD


def test_the_prompt_is_the_source_and_the_answer_the_target() -> None:
    batch = batch_of_pairs([Example(b"ab", b"xyz"), Example(b"c", b"")], seq_len=8)
    assert batch["source_ids"].tolist() == [[97, 98], [99, PAD]]
    assert batch["input_ids"].tolist() == [[BOS, 120, 121, 122], [BOS, PAD, PAD, PAD]]
    assert batch["labels"].tolist() == [[120, 121, 122, EOS], [EOS, -100, -100, -100]]


def test_a_stream_serves_pairs() -> None:
    split = cipher(20, 4, seed=0)
    stream = ExampleStream(split.train, split.validation, collate=batch_of_pairs, batch_size=4, seq_len=24, seed=0)
    assert set(next(stream)) == {"source_ids", "input_ids", "labels"}


def test_pairs_that_are_too_long_are_refused() -> None:
    with pytest.raises(ValueError, match="seq_len"):
        batch_of_pairs([Example(b"a", b"xyz")], seq_len=3)
    with pytest.raises(ValueError, match="empty"):
        batch_of_pairs([Example(b"", b"xyz")], seq_len=8)
