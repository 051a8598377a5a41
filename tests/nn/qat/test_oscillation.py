"""OscillationMonitor: flips counted by hand, borders, and a weight that does oscillate."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from narrowgauge.nn.qat import OscillationMonitor, prepare_qat, qat


def model_of(weight: list[list[float]]) -> nn.Module:
    values = torch.tensor(weight)
    model = nn.Sequential(nn.Linear(values.shape[1], values.shape[0], bias=False))
    with torch.no_grad():
        model[0].weight.copy_(values)
    return prepare_qat(model, qat("ste", weight="int4:static=1.0"))


def test_flips_are_counted_per_weight() -> None:
    model = model_of([[0.4, 1.2, -2.0, 3.0]])
    monitor = OscillationMonitor(model)
    for i in range(6):
        with torch.no_grad():
            model[0].weight[0, 0] = 0.6 if i % 2 == 0 else 0.4  # flips every time
            model[0].weight[0, 1] = 1.4 if i < 3 else 1.6  # flips once
        monitor.update()
    assert monitor.flips["0"].tolist() == [[6, 1, 0, 0]]
    report = monitor.report(more_than=2, within=0.25)
    (row,) = report.layers
    assert (row.weights, row.updates, row.flipping, row.mean_flips) == (4, 6, 0.25, 7 / 4)
    assert report.flipping == 0.25
    # 0.4 and 1.6 are 0.2 half steps from a border, −2 and 3 a whole one.
    assert row.border == report.border == 0.5
    assert monitor.near_border("0", 0.25).tolist() == [[True, True, False, False]]
    assert json.loads(json.dumps(report.to_dict()))["layers"][0]["name"] == "0"
    assert "flips > 2" in str(report)
    assert monitor.report(more_than=6).flipping == 0
    monitor.reset()
    assert monitor.report().layers[0].mean_flips == 0


def test_every_compares_less_often() -> None:
    model = model_of([[0.4]])
    monitor = OscillationMonitor(model, every=2)
    for i in range(6):
        with torch.no_grad():
            model[0].weight[0, 0] = 0.6 if i % 2 == 0 else 0.4
        monitor.update()
    # Seen at every second call only, the weight is always on the same side.
    assert monitor.updates == 3
    assert monitor.flips["0"].item() == 0


def test_a_target_between_two_levels_makes_a_weight_oscillate() -> None:
    torch.manual_seed(0)
    model = model_of([[0.2, 2.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    monitor = OscillationMonitor(model)
    x = torch.eye(2)
    for _ in range(40):
        optimizer.zero_grad()
        ((model(x) - torch.tensor([[0.5], [2.0]])) ** 2).sum().backward()
        optimizer.step()
        monitor.update()
    flips = monitor.flips["0"]
    assert flips[0, 0] > 10
    assert flips[0, 1] == 0
    assert monitor.report(more_than=10).flipping == 0.5


def test_every_is_checked() -> None:
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="every: got"):
            OscillationMonitor(model_of([[1.0]]), every=wrong)
