"""Pruning by magnitude, and masks."""

import math

import pytest
import torch
from torch import nn

from narrowgauge.priors import Masks, prune_


def model() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 30), nn.LayerNorm(30), nn.Linear(30, 10))
        with torch.no_grad():
            net[2].weight.mul_(10.0)
        return net


def zeros(p: torch.Tensor) -> float:
    return float((p == 0).float().mean())


def test_the_smallest_of_the_whole_model_become_zero() -> None:
    net, before = model(), model()
    masks = prune_(net, 0.5)
    assert masks.sparsity == pytest.approx(0.5)
    weights = torch.cat([before[i].weight.detach().abs().reshape(-1) for i in (0, 2)])
    border = weights.sort().values[450]
    for i in (0, 2):
        expected = torch.where(before[i].weight.abs() < border, 0.0, before[i].weight)
        assert torch.equal(net[i].weight, expected)
        assert torch.equal(net[i].bias, before[i].bias)
    assert zeros(net[0].weight) > zeros(net[2].weight)


def test_per_layer_each_loses_the_same_share() -> None:
    net = model()
    prune_(net, 0.3, per_layer=True)
    assert zeros(net[0].weight) == pytest.approx(0.3)
    assert zeros(net[2].weight) == pytest.approx(0.3)


def test_a_threshold_takes_what_is_below_it() -> None:
    net = model()
    with torch.no_grad():
        net[0].weight[0, :3] = torch.tensor([0.1, -0.1, 0.09999])
    prune_(net, threshold=float(torch.tensor(0.1)))
    assert net[0].weight[0, :3].tolist() == pytest.approx([0.1, -0.1, 0.0])


def test_equal_magnitudes_at_the_border_stay() -> None:
    net = nn.Linear(10, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(0.5)
        net.weight[0, 0] = 0.1
    assert prune_(net, 0.6).sparsity == pytest.approx(0.1)


def test_nothing_pruned_is_nothing_changed() -> None:
    net, before = model(), model()
    assert prune_(net, 0.0).sparsity == 0.0
    assert torch.equal(net[0].weight, before[0].weight)


def test_masks_are_saved_and_loaded() -> None:
    first, second = model(), model()
    saved = prune_(first, 0.4).state_dict()
    masks = prune_(second, 0.0)
    masks.load_state_dict(saved)
    masks.apply()
    assert torch.equal(first[0].weight, second[0].weight)
    with pytest.raises(ValueError, match="state: the saved masks are of other parameters"):
        masks.load_state_dict({"0.weight": saved["0.weight"]})


def test_masks_of_another_module_are_refused() -> None:
    saved = prune_(model(), 0.4).state_dict()
    with pytest.raises(ValueError, match=r"kept: '0\.weight' is no parameter of Sequential with the mask's shape"):
        Masks(nn.Sequential(nn.Linear(4, 4)), saved)


def test_mistakes_are_named() -> None:
    net = model()
    for options in ({}, {"fraction": 0.1, "threshold": 0.1}):
        with pytest.raises(ValueError, match=r"fraction, threshold: got .* accepted: one of the two"):
            prune_(net, **options)
    for options, text in (({"fraction": 1.0}, r"fraction: got 1\.0"), ({"threshold": -1.0}, r"threshold: got -1\.0")):
        with pytest.raises(ValueError, match=text):
            prune_(net, **options)
    with pytest.raises(ValueError, match="module: ReLU has no parameter"):
        prune_(nn.ReLU(), 0.5)
    with torch.no_grad():
        net[2].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"2\.weight: got NaN"):
        prune_(net, 0.5)
