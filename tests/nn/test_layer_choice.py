"""What the arguments that choose layers refuse; what they choose is tested with `convert`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import narrowgauge as ng
from narrowgauge.nn.layer_choice import checked_overrides, layer_places


@pytest.mark.parametrize("function", [ng.convert, layer_places])
def test_what_is_no_module_is_refused(function: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got OrderedDict"):
        function(nn.Linear(2, 2).state_dict())


def test_overrides_are_a_mapping() -> None:
    places = layer_places(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match=r"overrides: expected a mapping of patterns to recipes, got list"):
        checked_overrides(["0"], places)  # type: ignore[arg-type]
