"""Which forward is running again."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from narrowgauge.nn.issued_calls import REMEMBERED, IssuedCalls


def inputs(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 40, 24, generator=torch.Generator().manual_seed(0)))


def test_an_input_finds_its_own_call() -> None:
    calls, xs = IssuedCalls(), inputs(5)
    for number, x in enumerate(xs):
        calls.remember(x, number)
    assert [calls.recall(x.clone()) for x in (xs[1], xs[4], xs[1], xs[0])] == [1, 4, 1, 0]
    assert calls.recall(xs[2].t().contiguous().t()) == 2


def test_equal_inputs_are_found_from_the_newest_to_the_oldest() -> None:
    calls, (x,) = IssuedCalls(), inputs(1)
    for number in range(3):
        calls.remember(x, number)
    assert [calls.recall(x) for _ in range(4)] == [2, 1, 0, 2]


def test_shapes_dtypes_and_nan_are_told_apart() -> None:
    calls, (x,) = IssuedCalls(), inputs(1)
    for number, value in enumerate((x, x[:20], x.bfloat16(), torch.full_like(x, torch.nan), x[:0])):
        calls.remember(value, number)
    assert [calls.recall(value) for value in (x[:20], torch.full_like(x, torch.nan), x, x.bfloat16(), x[:0])] == [
        1,
        3,
        0,
        2,
        4,
    ]


def test_an_unknown_input_is_that_of_the_newest_call() -> None:
    calls, (x, y) = IssuedCalls(), inputs(2)
    with pytest.raises(LookupError, match="no forward came before"):
        calls.recall(x)
    calls.remember(x, 7)
    assert calls.recall(y) == 7


def test_the_oldest_are_forgotten_and_copies_are_empty() -> None:
    calls = IssuedCalls()
    xs = inputs(REMEMBERED + 1)
    for number, x in enumerate(xs):
        calls.remember(x, number)
    assert calls.recall(xs[1]) == 1
    assert calls.recall(xs[0]) == REMEMBERED
    for empty in (copy.deepcopy(calls), pickle.loads(pickle.dumps(calls))):
        with pytest.raises(LookupError):
            empty.recall(xs[1])
