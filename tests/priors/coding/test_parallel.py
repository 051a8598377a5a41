"""Parts keep their order, and what a part raises comes out."""

import pytest
import torch

from narrowgauge.priors.coding.parallel import each


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_results_are_in_the_order_of_the_parts():
    assert each(lambda part: part * part, range(50)) == [part * part for part in range(50)]
    assert each(lambda part: part, []) == []


@pytest.mark.usefixtures("threads")
def test_an_error_of_a_part_is_raised():
    with pytest.raises(ZeroDivisionError):
        each(lambda part: 1 // part, [2, 1, 0])
