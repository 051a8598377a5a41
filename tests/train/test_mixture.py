from collections import Counter

import numpy as np
import pytest
import torch

from narrowgauge.train import BatchSource, BatchStream
from narrowgauge.train.corpus import BatchCorpus, Corpus
from narrowgauge.train.mixture import MixtureCorpus, MixtureStream, Weights
from narrowgauge.train.tasks import TaskSource, addition

NAMES = ("low", "middle", "high")


def corpus_of(start: int) -> Corpus:
    return Corpus(
        str(start), np.arange(start, start + 80, dtype=np.uint8), np.arange(start, start + 40, dtype=np.uint8)
    )


def corpora() -> dict[str, BatchCorpus]:
    return {name: corpus_of(80 * place) for place, name in enumerate(NAMES)}


def make_stream(weights: Weights, seed: int = 0) -> MixtureStream:
    sources = {
        name: BatchStream(corpus, batch_size=2, seq_len=8, validation_batches=1) for name, corpus in corpora().items()
    }
    return MixtureStream(sources, weights, seed)


def name_of(batch: dict[str, torch.Tensor]) -> str:
    return NAMES[int(batch["input_ids"][0, 0]) // 80]


def test_batches_come_from_the_sources_at_their_rates() -> None:
    stream = make_stream([1, 3, 0])
    assert isinstance(stream, BatchSource)
    counts = Counter(name_of(next(stream)) for _ in range(800))
    assert counts["middle"] == pytest.approx(600, abs=62)  # 5 sigma
    assert counts["high"] == 0


def test_weights_may_change_with_the_step() -> None:
    stream = make_stream(lambda step: [1, 0, 0] if step < 5 else [0, 0, 1])
    assert [name_of(next(stream)) for _ in range(10)] == ["low"] * 5 + ["high"] * 5


def test_a_source_goes_on_where_it_was() -> None:
    stream = make_stream([1, 1, 1])
    alone = {
        name: BatchStream(corpus, batch_size=2, seq_len=8, validation_batches=1) for name, corpus in corpora().items()
    }
    for step in range(20):
        expected = next(alone[stream.choice(step)])
        assert torch.equal(next(stream)["input_ids"], expected["input_ids"])


def test_it_continues_with_the_same_batches() -> None:
    stream = make_stream([1, 2, 3])
    for _ in range(7):
        next(stream)
    again = make_stream([1, 2, 3])
    again.load_state_dict(stream.state_dict())
    for _ in range(10):
        assert torch.equal(next(stream)["labels"], next(again)["labels"])


def test_a_position_of_another_mixture_is_refused() -> None:
    state = make_stream([1, 1, 1]).state_dict()
    with pytest.raises(ValueError, match="seed"):
        make_stream([1, 1, 1], seed=1).load_state_dict(state)
    fewer = MixtureStream({"low": make_stream([1, 1, 1]).sources["low"]}, [1], 0)
    with pytest.raises(ValueError, match="sources"):
        fewer.load_state_dict(state)


def test_tasks_and_corpora_can_be_mixed_and_validation_has_all() -> None:
    task = TaskSource(*addition(20, 4, seed=0), batch_size=2, seq_len=32, seed=0)
    text = BatchStream(corpus_of(0), batch_size=2, seq_len=32, validation_batches=1)
    stream = MixtureStream({"task": task, "text": text}, [1, 1], 0)
    assert len(stream.validation()) == len(task.validation()) + 1
    assert task.position + text.position == 0
    for _ in range(5):
        next(stream)
    assert task.position + text.position == 5


@pytest.mark.parametrize("weights", [[1, 1], [0, 0, 0], [1, -1, 1], [1, float("nan"), 1]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        make_stream(weights)
    with pytest.raises(ValueError, match="weights"):
        MixtureCorpus(corpora(), weights)


def test_rows_of_a_batch_are_mixed() -> None:
    mixture = MixtureCorpus(corpora(), [1, 3, 0])
    assert isinstance(mixture, BatchCorpus)
    batch = mixture.batch(step=3, batch_size=800, seq_len=8)
    places = batch["input_ids"][:, 0] // 80
    assert torch.equal(places, torch.from_numpy(mixture.sources_of(3, 800)))
    assert int((places == 1).sum()) == pytest.approx(600, abs=62)
    assert not torch.any(places == 2)
    assert torch.equal(batch["labels"], batch["input_ids"] + 1)


def test_mixed_batches_are_a_function_of_the_step() -> None:
    stream = BatchStream(MixtureCorpus(corpora(), [1, 1, 1]), batch_size=6, seq_len=8, validation_batches=1)
    batches = [next(stream)["input_ids"] for _ in range(4)]
    mixture = MixtureCorpus(corpora(), [1, 1, 1])
    assert torch.equal(mixture.batch(2, 6, 8)["input_ids"], batches[2])
    assert not torch.equal(mixture.batch(2, 6, 8, seed=1)["input_ids"], batches[2])
    assert len(stream.validation()) == 3


def test_the_fingerprint_of_a_mixture_tells_its_weights() -> None:
    prints = {
        MixtureCorpus(corpora(), weights).fingerprint for weights in ([1, 1, 1], [1, 1, 2], lambda step: [1, 1, 1])
    }
    assert len(prints) == 3
    assert MixtureCorpus(corpora(), [2, 2, 4]).fingerprint in prints


def test_nothing_to_mix_is_refused() -> None:
    with pytest.raises(ValueError, match="sources"):
        MixtureStream({}, [], 0)
    with pytest.raises(ValueError, match="corpora"):
        MixtureCorpus({}, [])
