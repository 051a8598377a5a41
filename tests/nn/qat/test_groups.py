"""Groups of weights that share a scale."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.formats import parse
from narrowgauge.nn.qat.groups import check_divides, check_granularity, scheme_text, to_groups


@pytest.mark.parametrize("granularity", ["tensor", "row", 4])
def test_tiles_are_those_of_the_scheme(granularity: str | int) -> None:
    weight = torch.arange(24.0).reshape(3, 8)
    tiles = to_groups(weight, granularity)
    assert tuple(tiles.shape[:2]) == parse(scheme_text("int4", granularity)).scale_shape((3, 8))
    assert torch.equal(tiles.reshape(3, 8), weight)


@pytest.mark.parametrize("got", [0, -1, True, "col", 2.0, None])
def test_other_granularities_are_refused(got: object) -> None:
    with pytest.raises(ValueError, match="granularity: got"):
        check_granularity(got)


def test_groups_have_to_divide_the_inputs() -> None:
    with pytest.raises(ValueError, match="group: 3 does not divide the 8 inputs"):
        check_divides(torch.zeros(2, 8), 3)
