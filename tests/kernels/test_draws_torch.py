"""Draws in torch are those of the definition, for any part of a parameter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.kernels._draws_torch import draws, signed, spans
from narrowgauge.kernels.random_words import TABLE_ELEMENTS, uniform


@pytest.mark.parametrize(("count", "offset"), [
    (0, 0), (1, 0), (7, 2), (1000, TABLE_ELEMENTS - 500), (3 * TABLE_ELEMENTS, 10), (5, 2**33),
])  # fmt: skip
def test_draws_are_those_of_the_definition(count: int, offset: int) -> None:
    ours = draws(count, 12345, offset, torch.device("cpu"))
    np.testing.assert_array_equal(ours.numpy(), uniform(count, 12345, offset).astype(np.float32))


def test_spans_end_where_the_table_does() -> None:
    assert list(spans(10, TABLE_ELEMENTS - 4)) == [(0, 4, 0, TABLE_ELEMENTS // 2 - 2), (4, 10, 1, 0)]
    assert list(spans(0, 4)) == []


def test_words_have_the_bits_that_int32_has() -> None:
    assert [signed(word) for word in (0, 2**31 - 1, 2**31, 2**32 - 1)] == [0, 2**31 - 1, -(2**31), -1]
