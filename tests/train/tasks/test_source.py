import json
from collections import Counter
from typing import Any

import pytest
import torch

from narrowgauge.train import BatchSource
from narrowgauge.train.tasks import Example, TaskSource, batch_of, batch_of_tokens
from narrowgauge.train.tokens import EOS, PAD, decode

EXAMPLES = [Example(b"%02d=" % i, b"%d" % (i * i)) for i in range(10)]
VALIDATION = [Example(b"%02d=" % i, b"%d" % (i * i)) for i in range(20, 25)]


def make_source(**settings: Any) -> TaskSource:
    return TaskSource(EXAMPLES, VALIDATION, **{"batch_size": 4, "seq_len": 8, "seed": 0} | settings)


def prompts(batch: dict[str, torch.Tensor]) -> list[str]:
    return [decode(row[:3]) for row in batch["input_ids"]]


def test_only_the_answer_and_the_end_are_labels() -> None:
    batch = batch_of([Example(b"ab", b"cd"), Example(b"a", b"")], seq_len=6)
    assert batch["input_ids"].tolist() == [[97, 98, 99, 100, PAD, PAD], [97, *[PAD] * 5]]
    assert batch["labels"].tolist() == [[-100, 99, 100, EOS, -100, -100], [EOS, *[-100] * 5]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_an_example_may_fill_the_row_and_no_more() -> None:
    batch = batch_of([Example(b"ab", b"cd")], seq_len=4)
    assert batch["labels"][0].tolist() == [-100, 99, 100, EOS]
    with pytest.raises(ValueError, match="seq_len"):
        batch_of([Example(b"ab", b"cd")], seq_len=3)


def test_rows_of_tokens_may_have_targets_anywhere() -> None:
    batch = batch_of_tokens([[1, 2, 3, 4]], [[False, True, False, True]], seq_len=4)
    assert batch["input_ids"].tolist() == [[1, 2, 3, PAD]]
    assert batch["labels"].tolist() == [[2, -100, 4, -100]]
    with pytest.raises(ValueError, match="targets"):
        batch_of_tokens([[1, 2]], [[True, True]], seq_len=4)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="prompts"):
        batch_of([Example(b"", b"x")], seq_len=4)


def test_it_is_a_batch_source() -> None:
    assert isinstance(make_source(), BatchSource)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 23])
def test_every_index_comes_once_an_epoch_whatever_the_batch_size(batch_size: int) -> None:
    source = make_source(batch_size=batch_size)
    served = [index for position in range(50) for index in source.indices(position)]
    epochs = [served[start : start + 10] for start in range(0, len(served) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2


def test_the_batches_hold_the_indices() -> None:
    source = make_source()
    for position in range(6):
        expected = [EXAMPLES[index].prompt.decode() for index in source.indices(position)]
        assert prompts(next(source)) == expected


def test_a_given_order_is_kept() -> None:
    source = make_source(epochs_shuffled=False)
    assert [index for position in range(5) for index in source.indices(position)] == [*range(10)] * 2


def test_orders_depend_on_the_seed() -> None:
    assert make_source().indices(0) == make_source().indices(0)
    assert [make_source().indices(p) for p in range(3)] != [make_source(seed=1).indices(p) for p in range(3)]


def test_it_continues_with_the_same_batch_in_the_middle_of_an_epoch() -> None:
    source = make_source()
    for _ in range(3):
        next(source)
    state = json.loads(json.dumps(source.state_dict()))
    again = make_source()
    again.load_state_dict(state)
    served = Counter(index for position in range(3) for index in source.indices(position))
    for _ in range(9):
        served.update(again.indices(again.position))
        ours, theirs = next(source), next(again)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert min(served.values()) == 4  # 12 batches of 4: each index four or five times, none lost at the boundary
    assert max(served.values()) == 5


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 5}, {"seq_len": 9}, {"epochs_shuffled": False}])
def test_a_position_in_other_batches_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        make_source(**change).load_state_dict(make_source().state_dict())


def test_a_position_in_other_examples_is_refused() -> None:
    other = TaskSource(EXAMPLES[::-1], VALIDATION, batch_size=4, seq_len=8, seed=0)
    with pytest.raises(ValueError, match="examples"):
        other.load_state_dict(make_source().state_dict())


def test_validation_is_every_example_in_order_and_always_the_same() -> None:
    source = make_source()
    before = source.validation()
    next(source)
    assert [batch["labels"].shape[0] for batch in before] == [4, 1]
    assert [prompt for batch in source.validation() for prompt in prompts(batch)] == [f"{i}=" for i in range(20, 25)]


def test_ranks_share_the_rows_of_the_same_batch() -> None:
    whole = make_source()
    ranks = [make_source(rank=rank, world_size=2) for rank in range(2)]
    for _ in range(4):
        batch, shares = next(whole), [next(source) for source in ranks]
        for name in batch:
            assert torch.equal(torch.cat([share[name] for share in shares]), batch[name])
    assert ranks[0].state_dict() == ranks[1].state_dict() == whole.state_dict()
    with pytest.raises(ValueError, match="batch_size"):
        make_source(world_size=3)


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="train"):
        TaskSource([], VALIDATION, batch_size=1, seq_len=8, seed=0)
    with pytest.raises(ValueError, match="validation"):
        TaskSource(EXAMPLES, [], batch_size=1, seq_len=8, seed=0)
