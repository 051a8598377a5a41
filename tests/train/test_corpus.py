import numpy as np
import pytest
import torch

from narrowgauge.train import BatchStream
from narrowgauge.train.corpus import BatchCorpus, Corpus


def make_corpus() -> Corpus:
    return Corpus("numbers", np.arange(1000, dtype=np.int32), np.arange(1000, 1100, dtype=np.int32))


def test_tokens_above_255_are_kept_and_labels_follow_inputs() -> None:
    corpus = make_corpus()
    assert isinstance(corpus, BatchCorpus)
    batch = next(BatchStream(corpus, batch_size=4, seq_len=8, validation_batches=2))
    assert torch.equal(batch["labels"], batch["input_ids"] + 1)
    assert batch["input_ids"].max() > 255
    assert batch["input_ids"].dtype == torch.int64


def test_validation_comes_from_the_held_out_part() -> None:
    batches = make_corpus().validation(2, 4, 8)
    assert min(int(batch["input_ids"].min()) for batch in batches) >= 1000


def test_messages_name_the_unit() -> None:
    assert repr(make_corpus()) == "Corpus(numbers: 1,000 + 100 tokens)"
    of_bytes = Corpus("text", np.zeros(10, np.uint8), np.zeros(5, np.uint8))
    assert repr(of_bytes) == "Corpus(text: 10 + 5 bytes)"
    with pytest.raises(ValueError, match="has 10 bytes"):
        of_bytes.batch(0, 1, 10)


def test_the_fingerprint_tells_where_the_parts_meet() -> None:
    data = np.arange(10, dtype=np.uint8)
    assert Corpus("a", data[:6], data[6:]).fingerprint != Corpus("a", data[:7], data[7:]).fingerprint


def test_arrays_that_are_no_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="held_out"):
        Corpus("a", np.zeros(4, np.uint8), np.zeros(4))
    with pytest.raises(ValueError, match="train"):
        Corpus("a", np.zeros((4, 4), np.uint8), np.zeros(4, np.uint8))
