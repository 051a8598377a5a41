from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from narrowgauge.methods.self_improving import CandidateSource, prefixes_and_suffixes
from narrowgauge.train import Batch, BatchSource, Llama, LlamaConfig
from narrowgauge.train.tasks import Example, without_marks
from narrowgauge.train.tokens import PAD, VOCAB_SIZE

SMALL = LlamaConfig(
    vocab_size=VOCAB_SIZE, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16
)
EXAMPLES = [Example(b"ab", b"c!xd"), Example(b"efg", b"hi"), Example(b"j", b"kl"), Example(b"mn", b"opq")]


def in_order(prefixes: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    return torch.arange(float(len(candidates[0]))).expand(len(prefixes), -1)


def rewrite(prefix: bytes, suffix: bytes) -> bytes:
    return without_marks(suffix)


def source(examples: Sequence[Example] = EXAMPLES, **settings: Any) -> CandidateSource:
    chosen: dict[str, Any] = {"rewrite": rewrite, "rollouts": 3, "batch_size": 2} | settings
    made = CandidateSource(examples, chosen.pop("judge", in_order), **chosen)
    made.bind(Llama(SMALL, seed=0))
    return made


def labelled(batch: Batch, row: int) -> list[int]:
    labels = batch["labels"][row]
    return labels[labels != -100].tolist()


def test_a_document_becomes_chunks_after_all_that_precedes_them() -> None:
    assert prefixes_and_suffixes(b"abcdefgh", 3) == [Example(b"abc", b"def")]
    assert prefixes_and_suffixes(b"abcdef", 2) == [Example(b"ab", b"cd"), Example(b"abcd", b"ef")]
    assert prefixes_and_suffixes(b"abcdef", 2, context=3) == [Example(b"ab", b"cd"), Example(b"bcd", b"ef")]
    assert prefixes_and_suffixes(b"abc", 2) == []
    with pytest.raises(ValueError, match="chunk, context: expected at least 1, got 0"):
        prefixes_and_suffixes(b"abc", 0)


def test_candidates_are_original_rewrite_and_rollouts_in_this_order() -> None:
    batch = source().judged(EXAMPLES[:2])
    assert batch["input_ids"].shape[0] == 10
    assert bytes(labelled(batch, 0)) == b"c!xd"
    assert bytes(labelled(batch, 1)) == b"cd"
    assert [len(labelled(batch, row)) for row in range(10)] == [4, 2, 4, 4, 4, 2, 2, 2, 2, 2]
    assert batch["is_rollout"].tolist() == [False, False, True, True, True] * 2
    assert batch["candidate_reward"].tolist() == [0, 1, 2, 3, 4] * 2


def test_prefix_and_padding_carry_no_label_and_labels_are_the_next_token() -> None:
    examples = EXAMPLES[:2]
    batch = source().judged(examples)
    for row, (ids, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
        prefix = examples[row // 5].prompt
        assert bytes(ids[: len(prefix)].tolist()) == prefix
        where = (labels != -100).nonzero().flatten().tolist()
        first, last = len(prefix) - 1, len(prefix) - 1 + len(where)
        assert where == list(range(first, last))
        assert labels[first : last - 1].tolist() == ids[first + 1 : last].tolist()
        assert (ids[last:] == PAD).all()


def test_without_rollouts_and_without_a_rewriter() -> None:
    only_given = source(rollouts=0)
    assert only_given.judged(EXAMPLES[:1])["is_rollout"].tolist() == [False, False]
    alone = CandidateSource(EXAMPLES, in_order, rollouts=0, batch_size=1)  # nobody has to be bound
    batch = alone.judged(EXAMPLES[:1])
    assert bytes(labelled(batch, 0)) == b"c!xd"
    assert alone.num_candidates == 1


def test_each_example_comes_once_an_epoch() -> None:
    made = source(rollouts=0, rewrite=None, seed=5)
    assert isinstance(made, BatchSource)
    batches = [next(made) for _ in range(4)]
    seen = [bytes(labelled(batch, row)) for batch in batches for row in range(2)]
    answers = sorted(example.answer for example in EXAMPLES)
    assert sorted(seen[:4]) == sorted(seen[4:]) == answers


def test_rollouts_are_functions_of_policy_seed_and_position() -> None:
    first, second, other = source(seed=1), source(seed=1), source(seed=2)
    torch.manual_seed(3)  # the global generator is not asked
    batches = [next(first) for _ in range(3)]
    second.load_state_dict({**first.state_dict(), "position": 2})
    for name, tensor in next(second).items():
        torch.testing.assert_close(tensor, batches[2][name], rtol=0, atol=0)
    assert next(other)["labels"].tolist() != batches[0]["labels"].tolist()


def test_a_position_of_other_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match="data: the saved position belongs to rollouts=3, this stream has 2"):
        source(rollouts=2).load_state_dict(source().state_dict())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="examples: expected at least one"):
        source([])
    with pytest.raises(ValueError, match="examples: expected at least one, each with a prompt"):
        source([Example(b"", b"a")])
    with pytest.raises(ValueError, match="batch_size, rollouts: expected at least 1 and 0, got 2 and -1"):
        source(rollouts=-1)
    with pytest.raises(ValueError, match="rewrite: expected a suffix that is not empty"):
        next(source(rewrite=lambda prefix, suffix: b""))
    with pytest.raises(ValueError, match=r"judge: expected rewards of shape \[2, 5\], got \[3\]"):
        next(source(judge=lambda prefixes, candidates: torch.zeros(3)))
    with pytest.raises(ValueError, match="data: a CandidateSource needs a policy"):
        next(CandidateSource(EXAMPLES, in_order, batch_size=1))
