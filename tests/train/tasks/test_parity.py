from itertools import combinations

import pytest
import torch

from narrowgauge.train.tasks import parity


def test_exactly_one_subset_of_the_bits_gives_the_labels() -> None:
    examples = parity(400, seed=0, num_bits=8, num_relevant=3)
    odd = examples.inputs < 0
    agreeing = [
        subset
        for subset in combinations(range(8), 3)
        if torch.equal(odd[:, list(subset)].sum(1) % 2, examples.labels[:, 0])
    ]
    assert len(agreeing) == 1
    assert set(examples.inputs.unique().tolist()) == {-1.0, 1.0}


def test_no_bit_alone_tells_anything() -> None:
    examples = parity(4000, seed=0)
    signs = 1 - 2 * examples.labels
    assert (examples.inputs * signs).mean(0).abs().max() < 5 / 4000**0.5


def test_more_relevant_bits_than_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="num_relevant"):
        parity(1, seed=0, num_bits=2, num_relevant=3)
