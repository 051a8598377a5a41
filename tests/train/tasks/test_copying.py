import pytest

from narrowgauge.train.tasks import batch_of, copying


def test_the_answer_is_the_prompt() -> None:
    split = copying(20, 5, seed=0)
    assert all(example.answer == example.prompt and len(example.prompt) == 48 for example in split.train)


def test_the_loss_is_on_the_second_half() -> None:
    labels = batch_of(copying(1, 1, seed=0, length=8).train, seq_len=20)["labels"][0]
    assert (labels != -100).nonzero().flatten().tolist() == list(range(7, 16))


def test_letters_come_from_the_alphabet() -> None:
    split = copying(20, 5, seed=0, length=30, alphabet="xy")
    assert set(b"".join(example.prompt for example in split.train)) == set(b"xy")


def test_an_empty_copy_is_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        copying(1, 1, seed=0, length=0)
