"""Configurations as plain data."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.nn.qat import QAT, ActivationQuantizer, LSQWeight, QATConfig, part, qat
from narrowgauge.nn.qat.data import config_data, config_from_data, part_data, part_from_data


@pytest.mark.parametrize("name", QAT)
def test_every_method_comes_back_from_json(name: str) -> None:
    config = qat(name)
    assert config_from_data(json.loads(json.dumps(config_data(config)))) == config


class Doubled(ActivationQuantizer):
    """A method of one's own."""

    def __init__(self, by: float = 2.0, grid: object = None) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


def test_a_class_of_ones_own_is_found_while_it_is_imported() -> None:
    config = QATConfig(name="mine", weight=part(LSQWeight, bits=3), activation=part(Doubled, by=3.0))
    assert config_from_data(config_data(config)) == config
    assert part_from_data(None) is part_data(None) is None
    with pytest.raises(ValueError, match="config: 'Tripled' is not known here; import the module"):
        part_from_data({"kind": "Tripled", "settings": {}})
    with pytest.raises(ValueError, match=r"config: Doubled: .*unexpected keyword"):
        part_from_data({"kind": "Doubled", "settings": {"bits": 3}})


def test_what_files_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="config: files cannot name Identity; accepted: WeightQuantizer"):
        part_data(part(nn.Identity))
    with pytest.raises(TypeError, match="config: grid of Doubled is a Tensor"):
        part_data(part(Doubled, grid=torch.ones(2)))
