"""Reports of a model's weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge.priors import GeneralizedGaussian, fit
from narrowgauge.priors.goodness import compare
from narrowgauge.priors.layer_report import HISTOGRAM_REACH, ModelReporter, histogram, report_layer, report_model
from narrowgauge.priors.rate import prior_bits


def model() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 80), nn.LayerNorm(80), nn.Linear(80, 50))
    with torch.no_grad():
        for layer, shape in ((net[0], 0.8), (net[2], 2.0)):
            size = layer.weight.shape
            layer.weight.copy_(GeneralizedGaussian.from_std(shape, 0.04).sample(size, generator=generator))
            layer.bias.zero_()
    return net


def test_each_matrix_has_its_line() -> None:
    net = model()
    report = report_model(net)
    assert [layer.name for layer in report.layers] == ["0.weight", "2.weight"]
    first = report.layers[0]
    assert first.shape == (80, 100)
    assert first.count == 8000
    assert first.prior == fit(net[0].weight)
    assert first.models == compare(net[0].weight)
    assert first.bits == prior_bits(first.prior)
    assert first.std == pytest.approx(0.04, rel=0.05)
    assert first.models.best == "generalized"
    assert report.left_out == {
        "0.bias": "all zeros",
        "1.weight": "a vector",
        "1.bias": "all zeros",
        "2.bias": "all zeros",
    }


def test_vectors_are_reported_when_asked_for() -> None:
    assert [layer.name for layer in report_model(model(), vectors=True).layers] == ["0.weight", "1.weight", "2.weight"]


@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_the_pooled_fits_are_those_of_the_module(method: str) -> None:
    net = model()
    report = report_model(net, method=method)
    for found, expected in ((report.pooled, fit(net)), (report.matrices, fit(net, matrices_only=True))):
        assert found is not None
        assert found.shape == pytest.approx(expected.shape, rel=1e-9)
        assert found.scale == pytest.approx(expected.scale, rel=1e-9)


def test_a_part_counts_for_the_whole() -> None:
    net = model()
    whole, part = ModelReporter(), ModelReporter()
    for name, p in net.named_parameters():
        doubled = torch.cat([p, p]) if p.ndim == 2 else p
        whole.add(name, doubled)
        part.add(name, p, tuple(doubled.shape))
    a, b = whole.result(), part.result()
    assert a.pooled is not None
    assert b.pooled is not None
    assert a.pooled.shape == pytest.approx(b.pooled.shape, rel=1e-9)
    assert b.layers[0].shape == (160, 100)
    assert b.layers[0].count == 8000


def test_zeros_are_counted() -> None:
    x = torch.randn(10, 100, generator=torch.Generator().manual_seed(0))
    x[:3] = 0.0
    assert report_layer("w", x).zeros == 0.3


def test_the_histogram_is_a_density() -> None:
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    found = histogram(x, 1.0)
    assert found.reach == pytest.approx(min(HISTOGRAM_REACH, float(x.abs().max())))
    width = 2 * found.reach / len(found.density)
    assert sum(found.density) * width == pytest.approx(1.0, abs=1e-3)
    middle = np.abs(found.centres) < 1.5
    expected = np.exp(-(found.centres**2) / 2) / math.sqrt(2 * math.pi)
    assert np.array(found.density)[middle] == pytest.approx(expected[middle], rel=0.1)


def test_constant_magnitudes_have_a_histogram() -> None:
    found = report_layer("w", torch.tensor([[0.5, -0.5, 0.5, 0.5]]))
    assert sum(found.histogram.density) * 2 * found.histogram.reach / len(found.histogram.density) == pytest.approx(1)


def test_mistakes_name_the_tensor() -> None:
    with pytest.raises(ValueError, match=r"w: x: got 1 NaN or infinite of 4 values"):
        report_layer("w", torch.tensor([[1.0, math.inf], [1.0, 2.0]]))
    with pytest.raises(ValueError, match=r"model: no tensor to report among 2; the first: weight \(a vector\)"):
        report_model(nn.LayerNorm(4))
    empty = ModelReporter()
    empty.add("e", torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"e \(empty\)"):
        empty.result()
