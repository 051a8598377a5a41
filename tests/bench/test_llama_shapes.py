"""The shapes of a Llama add up to the parameters that were asked for."""

from __future__ import annotations

import math

import pytest

from narrowgauge.bench.llama_shapes import LEAST, llama_shapes


@pytest.mark.parametrize("parameters", [LEAST, 123_457, 1_000_000, 50_000_000, 7_000_000_000])
def test_shapes_have_the_number_of_parameters_to_a_row(parameters: int) -> None:
    shapes = llama_shapes(parameters)
    count = sum(math.prod(shape) for shape in shapes)
    assert parameters - shapes[-1][1] < count <= parameters
    assert all(length > 0 for shape in shapes for length in shape)


def test_norms_are_among_them_and_no_group_divides_every_tensor() -> None:
    shapes = llama_shapes(1_000_000)
    assert sum(len(shape) == 1 for shape in shapes) == 17
    assert any(math.prod(shape) % 256 for shape in shapes)


def test_too_few_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="parameters: expected at least 50000, got 49999"):
        llama_shapes(LEAST - 1)
