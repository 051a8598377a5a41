from collections import Counter
from typing import Any

import pytest
import torch

from narrowgauge.train import BatchSource
from narrowgauge.train.documents import Document, split_documents
from narrowgauge.train.packing import PackedStream, segment_mask
from narrowgauge.train.tokens import EOS

DOCUMENTS = [Document(str(index), bytes([65 + index]) * (3 + index % 7)) for index in range(40)]


def make_stream(**settings: Any) -> PackedStream:
    return PackedStream(DOCUMENTS, **{"batch_size": 2, "seq_len": 8} | settings)


def epoch_of(stream: PackedStream) -> list[dict[str, torch.Tensor]]:
    assert stream.rows_per_epoch % stream.batch_size == 0
    return [next(stream) for _ in range(stream.rows_per_epoch // stream.batch_size)]


def test_every_token_is_a_label_once_an_epoch_but_for_the_rest() -> None:
    train, _ = split_documents(DOCUMENTS)
    tokens = Counter(byte for document in train for byte in document.text) + Counter({EOS: len(train)})
    stream = make_stream(batch_size=1)
    assert stream.rows_per_epoch == (tokens.total() - 1) // 8
    for _ in range(2):
        seen = Counter(label for batch in epoch_of(stream) for label in batch["labels"].flatten().tolist())
        assert not seen - tokens
        assert (tokens - seen).total() < 1 + 8


def test_documents_follow_one_another_whole() -> None:
    stream = make_stream(batch_size=1)
    batches = epoch_of(stream)
    joined = [int(batches[0]["input_ids"][0, 0]), *(label for b in batches for label in b["labels"].flatten().tolist())]
    runs, current = [], []
    for token in joined:
        if token == EOS:
            runs.append(bytes(current))
            current = []
        else:
            current.append(token)
    texts = [document.text for document in split_documents(DOCUMENTS)[0]]
    assert len(set(runs)) == len(runs) >= len(texts) - 3
    assert set(runs) <= set(texts)


def test_each_epoch_has_its_own_order_and_the_seed_its_own() -> None:
    stream = make_stream(batch_size=1)
    first, second = (torch.cat([b["input_ids"] for b in epoch_of(stream)]) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[:1], next(make_stream(batch_size=1, seed=1))["input_ids"])


def test_it_continues_with_the_same_batches_over_the_end_of_an_epoch() -> None:
    stream = make_stream(boundaries=True)
    for _ in range(5):
        next(stream)
    again = make_stream(boundaries=True)
    again.load_state_dict(stream.state_dict())
    for _ in range(stream.rows_per_epoch):
        ours, theirs = next(stream), next(again)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 4}, {"seq_len": 9}, {"boundaries": True}])
def test_a_position_in_other_batches_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        make_stream(**change).load_state_dict(make_stream().state_dict())


def test_boundaries_number_the_documents_and_hide_what_cannot_be_told() -> None:
    batch = next(make_stream(boundaries=True, seq_len=20))
    plain = next(make_stream(seq_len=20))
    assert "segments" not in plain
    is_end = plain["input_ids"] == EOS
    assert torch.equal(batch["input_ids"], plain["input_ids"])
    assert torch.equal(batch["labels"], plain["labels"].masked_fill(is_end, -100))
    for row, segments in zip(plain["input_ids"].tolist(), batch["segments"].tolist(), strict=True):
        number = 0
        for token, segment in zip(row, segments, strict=True):
            assert segment == number
            number += token == EOS
        assert number >= 2


def test_the_mask_is_causal_and_within_documents() -> None:
    mask = segment_mask(torch.tensor([[0, 0, 1, 1]]))
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_validation_is_the_held_out_documents_in_order() -> None:
    stream = make_stream()
    assert isinstance(stream, BatchSource)
    held_out = split_documents(DOCUMENTS)[1]
    tokens = [token for document in held_out for token in [*document.text, EOS]]
    labels = torch.cat([batch["labels"].flatten() for batch in stream.validation()]).tolist()
    assert labels == tokens[1 : 1 + len(labels)]
    assert len(tokens) - 1 - len(labels) < 8


def test_ranks_share_the_rows_of_the_same_batch() -> None:
    whole, ranks = make_stream(batch_size=4), [make_stream(batch_size=4, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(3):
        shares = [next(stream)["labels"] for stream in ranks]
        assert torch.equal(torch.cat(shares), next(whole)["labels"])


def test_documents_that_fill_no_row_are_refused() -> None:
    with pytest.raises(ValueError, match="seq_len"):
        make_stream(seq_len=1000)
