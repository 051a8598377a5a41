import numpy as np
import pytest
import torch

from narrowgauge.train import BatchSource
from narrowgauge.train.tasks import TensorExamples, TensorSource
from narrowgauge.train.tasks.tensors import normal, uniform


def make_examples(count: int) -> TensorExamples:
    return TensorExamples(torch.arange(count * 2.0).reshape(count, 2), torch.arange(count)[:, None])


def test_batches_hold_inputs_with_their_labels_and_each_comes_once_an_epoch() -> None:
    source = TensorSource(*make_examples(12).split(4), batch_size=4, seed=0)
    assert isinstance(source, BatchSource)
    batches = [next(source) for _ in range(2)]
    for batch in batches:
        assert torch.equal(batch["input_ids"][:, 0], 2.0 * batch["labels"][:, 0])
    assert sorted(torch.cat([batch["labels"] for batch in batches]).flatten().tolist()) == list(range(8))
    assert source.validation()[0]["labels"].flatten().tolist() == [8, 9, 10, 11]


def test_the_fingerprint_tells_of_every_number() -> None:
    train, validation = make_examples(12).split(4)
    state = TensorSource(train, validation, batch_size=4, seed=0).state_dict()
    other = TensorExamples(train.inputs + 1e-6, train.labels)
    with pytest.raises(ValueError, match="examples"):
        TensorSource(other, validation, batch_size=4, seed=0).load_state_dict(state)
    TensorSource(train, validation, batch_size=4, seed=0).load_state_dict(state)


def test_normal_numbers_are_normal_and_repeat() -> None:
    numbers = normal((200, 100), 0, "test")
    assert abs(numbers.mean()) < 0.05
    assert numbers.std() == pytest.approx(1, abs=0.03)
    assert np.array_equal(numbers, normal((200, 100), 0, "test"))
    assert not np.array_equal(numbers, normal((200, 100), 0, "another test"))
    assert 0 < uniform((1000,), 0, "test").min() < uniform((1000,), 0, "test").max() < 1


def test_examples_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        TensorExamples(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="inputs"):
        TensorExamples(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="num_validation"):
        make_examples(3).split(3)
