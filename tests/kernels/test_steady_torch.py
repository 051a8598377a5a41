"""Powers whose bits do not depend on their place."""

import pytest
import torch

from narrowgauge.kernels._group_numbers import unbiased
from narrowgauge.kernels._steady_torch import exp2


@pytest.mark.parametrize("function", [exp2, unbiased])
def test_an_entry_has_the_same_bits_wherever_it_stands(function) -> None:  # type: ignore[no-untyped-def]
    x = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) * 3 + 0.1
    whole = function(x)
    for first in (0, 1, 7):
        for count in range(1, 100):
            assert torch.equal(function(x[first : first + count]), whole[first : first + count]), (first, count)


def test_values_are_those_of_double_precision() -> None:
    x = torch.linspace(-126, 126, 1001)[:, None]
    torch.testing.assert_close(exp2(x).double(), torch.exp2(x.double()), rtol=2e-7, atol=0)
    step = torch.logspace(-5, 1, 100)[:, None]
    half = step.double() * (torch.log(torch.tensor(2.0, dtype=torch.float64)) / 2)
    torch.testing.assert_close(unbiased(step).double(), half / torch.sinh(half), rtol=3e-7, atol=0)
    assert exp2(torch.empty(0, 1)).shape == (0, 1)
