import pytest

from narrowgauge.train.tasks import recall


def test_the_answer_stands_behind_the_key_that_is_asked_for() -> None:
    for example in recall(100, 10, seed=0).train:
        text = example.prompt.decode()
        pairs, asked = text[:12], text[13]
        assert text == f"{pairs}?{asked}"
        values = dict(zip(pairs[::2], pairs[1::2], strict=True))
        assert len(values) == 6
        assert example.answer.decode() == values[asked]


def test_every_place_is_asked_for() -> None:
    prompts = [example.prompt for example in recall(300, 10, seed=0).train]
    assert {prompt.index(prompt[13:14]) // 2 for prompt in prompts} == set(range(6))


def test_too_many_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="num_pairs"):
        recall(1, 1, seed=0, num_pairs=27)
