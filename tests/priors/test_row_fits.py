"""Fits of many rows are those of each row alone; layers get theirs by name."""

import math

import pytest
import torch
from torch import nn

from narrowgauge.priors import GeneralizedGaussian, fit, fit_layers, fit_rows, moment_ratio, shape_from_ratio
from narrowgauge.priors.fit import SHAPE_MAX, SHAPE_MIN
from narrowgauge.priors.row_fits import shapes_from_ratios

SHAPES = (0.3, 0.5, 0.85, 1.0, 1.36, 1.54, 2.0, 2.5, 3.0)


def rows(count: int, scale: float = 0.1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.stack([GeneralizedGaussian(s, scale).sample(count, generator=g, dtype=dtype) for s in SHAPES])


@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_each_row_has_the_fit_that_it_has_alone(method: str) -> None:
    x = rows(3000)
    found = fit_rows(x, method)
    for index, row in enumerate(x):
        alone = fit(row, method)
        assert float(found.shapes[index]) == pytest.approx(alone.shape, rel=1e-9)
        assert float(found.scales[index]) == pytest.approx(alone.scale, rel=1e-8)
        assert found.row(index).shape == float(found.shapes[index])


def test_the_table_gives_each_row_its_entry() -> None:
    x = rows(1000)
    assert fit_rows(x, table=True).shapes.tolist() == [fit(row, table=True).shape for row in x]


def cramer_rao(shape: float, count: int) -> tuple[float, float]:
    """Standard deviations of the best unbiased estimates of shape and of ln(scale), both unknown.

    With u = (|x|/α)^ν ~ Gamma(1/ν), the scores are ∂/∂ln α = ν u - 1 and ∂/∂ν = 1/ν + ψ(1/ν)/ν² - u ln(u)/ν.
    """
    a = 1 / shape
    digamma, trigamma = (float(torch.polygamma(n, torch.tensor(a, dtype=torch.float64))) for n in (0, 1))
    # E u ln u and E (u ln u)² of Gamma(a), by derivatives of Γ(a + 1) and Γ(a + 2).
    d1 = float(torch.digamma(torch.tensor(a + 1, dtype=torch.float64)))
    d2 = float(torch.digamma(torch.tensor(a + 2, dtype=torch.float64)))
    t2 = float(torch.polygamma(1, torch.tensor(a + 2, dtype=torch.float64)))
    mean, square, cross = a * d1, a * (a + 1) * (d2**2 + t2), a * (a + 1) * d2
    constant = 1 / shape + digamma / shape**2
    assert constant == pytest.approx(mean / shape, rel=1e-9)  # a score has mean 0
    i_scale = shape
    i_shape = (square - mean**2) / shape**2
    i_both = -(cross - a * mean)
    assert trigamma > 0
    determinant = i_scale * i_shape - i_both**2
    return math.sqrt(i_scale / determinant / count), math.sqrt(i_shape / determinant / count)


@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_a_million_values_give_shape_and_scale_back(method: str) -> None:
    """Shape within 2 % and scale within 1 %, or as near as five times the best possible standard deviation where that
    is more: with both unknown, the scale of shape 0.3 cannot be had to 1 %."""
    count = 1_000_000
    found = fit_rows(rows(count, 0.05, torch.float32), method)
    efficiency = 1.0 if method == "mle" else 2.5
    for shape, nu, alpha in zip(SHAPES, found.shapes.tolist(), found.scales.tolist(), strict=True):
        of_shape, of_scale = cramer_rao(shape, count)
        assert nu == pytest.approx(shape, rel=max(0.02, 5 * efficiency * of_shape / shape))
        assert abs(math.log(alpha / 0.05)) < max(0.01, 5 * efficiency * of_scale)


@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_rows_are_fitted_in_pieces_without_a_difference(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(500)
    whole = fit_rows(x, method)
    monkeypatch.setattr("narrowgauge.priors.row_fits._CHUNK", 1000)
    cut = fit_rows(x, method)
    assert torch.allclose(whole.shapes, cut.shapes, rtol=1e-9)
    assert torch.allclose(whole.scales, cut.scales, rtol=1e-9)


@pytest.mark.parametrize("method", ["ratio", "mle"])
def test_odd_rows_do_not_disturb_their_neighbours(method: str) -> None:
    x = rows(300)[:4].clone()
    expected = fit_rows(x, method)
    one_hot = torch.zeros(300, dtype=torch.float64)
    one_hot[3] = 2.0
    odd = torch.stack([torch.zeros(300), torch.ones(300), one_hot])
    found = fit_rows(torch.cat([odd, x * 1e-200]), method)
    assert math.isnan(found.shapes[0])
    assert math.isnan(found.scales[0])
    assert float(found.shapes[1]) == SHAPE_MAX
    assert float(found.scales[1]) == pytest.approx(fit(torch.ones(300), method).scale, rel=1e-9)
    if method == "ratio":
        assert float(found.shapes[2]) == pytest.approx(fit(one_hot).shape, rel=1e-9)
    assert torch.allclose(found.shapes[3:], expected.shapes, rtol=1e-9)
    assert torch.allclose(found.scales[3:], expected.scales * 1e-200, rtol=1e-8, atol=0)
    with pytest.raises(ValueError, match="index: row 0 has no fit"):
        found.row(0)


def test_a_convolution_has_a_fit_for_each_output_channel() -> None:
    weight = nn.Conv2d(3, 8, 5).weight
    assert torch.equal(fit_rows(weight).shapes, fit_rows(weight.detach().reshape(8, -1)).shapes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_rows_are_read_as_their_values(dtype: torch.dtype) -> None:
    x = rows(500).to(dtype)
    assert torch.equal(fit_rows(x).shapes, fit_rows(x.double()).shapes)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"x: got shape \(3,\)"):
        fit_rows(torch.ones(3))
    with pytest.raises(ValueError, match=r"x: got shape \(3, 0\)"):
        fit_rows(torch.ones(3, 0))
    with pytest.raises(ValueError, match="x: got NaN or infinite values in row 1"):
        fit_rows(torch.tensor([[1.0, 2.0], [math.nan, 1.0]]))
    with pytest.raises(TypeError, match=r"x: got dtype torch\.bool"):
        fit_rows(torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="table: got True with method 'mle'"):
        fit_rows(torch.ones(2, 2), "mle", table=True)
    with pytest.raises(ValueError, match=r"ratios: got 0\.5"):
        shapes_from_ratios(torch.tensor([0.5]))


@pytest.mark.parametrize("table", [True, False])
def test_ratios_are_inverted_as_one_by_one(table: bool) -> None:
    given = [1.0, 4 / 3, 1.4, 1.46167, 1.5708, 2.0, 2.0001, 3.4, 15.9, 216.0, 217.0, 1e5, 1e300, math.nan]
    ratios = torch.tensor(given, dtype=torch.float64)
    middle = (moment_ratio(0.5) + moment_ratio(0.51)) / 2
    ratios = torch.cat([ratios, torch.tensor([middle - 1e-9, middle + 1e-9], dtype=torch.float64)])
    found = shapes_from_ratios(ratios, table=table)
    for ratio, shape in zip(ratios.tolist(), found.tolist(), strict=True):
        if math.isnan(ratio):
            assert math.isnan(shape)
        else:
            assert shape == pytest.approx(shape_from_ratio(ratio, table=table), rel=1e-11)
    if not table:
        assert found[0] == SHAPE_MAX
        assert found[12] == SHAPE_MIN


def test_layers_are_fitted_by_name() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 40), nn.LayerNorm(40), nn.Linear(40, 40, bias=False))
    net.append(nn.Linear(40, 40, bias=False))
    net[3].weight = net[2].weight
    found = fit_layers(net)
    assert list(found) == ["0.weight", "2.weight"]
    assert found["0.weight"] == fit(net[0].weight)
    everything = fit_layers(net, "mle", matrices_only=False)
    assert list(everything) == ["0.weight", "0.bias", "1.weight", "2.weight"]  # 1.bias is zeros
    with torch.no_grad():
        net[2].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"2\.weight: x: got 1 NaN"):
        fit_layers(net)
