"""Drop-ins for torch.nn.init."""

import inspect
import math

import pytest
import torch
from torch import nn

from narrowgauge.priors import GeneralizedGaussian, fit
from narrowgauge.priors.torch_init import gg_kaiming_, gg_xavier_

PAIRS = {gg_xavier_: nn.init.xavier_normal_, gg_kaiming_: nn.init.kaiming_normal_}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ours", PAIRS)
def test_the_arguments_are_torchs_in_order_with_their_defaults(ours) -> None:
    theirs = list(inspect.signature(PAIRS[ours]).parameters.values())
    found = list(inspect.signature(ours).parameters.values())
    assert [(p.name, p.default) for p in found[:-1]] == [(p.name, p.default) for p in theirs]
    assert (found[-1].name, found[-1].kind) == ("shape", inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.parametrize(
    ("ours", "arguments"),
    [
        (gg_xavier_, {}),
        (gg_xavier_, {"gain": 1.7}),
        (gg_kaiming_, {}),
        (gg_kaiming_, {"a": 0.3, "mode": "fan_out"}),
        (gg_kaiming_, {"nonlinearity": "relu"}),
        (gg_kaiming_, {"nonlinearity": "tanh", "mode": "fan_out"}),
    ],
)
@pytest.mark.parametrize("shape", [0.7, 1.36, 2.0])
@pytest.mark.parametrize("size", [(600, 500), (40, 30, 16, 16)])
def test_the_variance_is_torchs_within_one_percent(ours, arguments, shape, size) -> None:
    expected = PAIRS[ours](torch.empty(size), **arguments, generator=seeded(1)).double().square().mean()
    tensor = torch.empty(size)
    assert ours(tensor, **arguments, generator=seeded(2), shape=shape) is tensor
    kurtosis = GeneralizedGaussian(shape, 1.0).kurtosis
    tolerance = max(0.01, 5 * math.sqrt((kurtosis + 1) / tensor.numel()))  # both sides scatter
    assert float(tensor.double().square().mean()) == pytest.approx(float(expected), rel=tolerance)
    assert fit(tensor).shape == pytest.approx(shape, abs=0.04)


def test_parameters_of_any_dtype_are_filled_in_place() -> None:
    layer = nn.Linear(300, 300).bfloat16()
    gg_kaiming_(layer.weight, nonlinearity="relu", generator=seeded())
    assert layer.weight.requires_grad
    assert float(layer.weight.detach().double().square().mean()) == pytest.approx(2 / 300, rel=0.02)
    assert gg_xavier_(torch.empty(0, 3)).shape == (0, 3)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"tensor: got shape \(3,\)"):
        gg_xavier_(torch.empty(3))
    with pytest.raises(ValueError, match="mode: got 'fan_inn', accepted: fan_in, fan_out"):
        gg_kaiming_(torch.empty(3, 3), mode="fan_inn")
    with pytest.raises(ValueError, match="Unsupported nonlinearity"):
        gg_kaiming_(torch.empty(3, 3), nonlinearity="geluu")
    for call in (gg_xavier_, gg_kaiming_):
        with pytest.raises(ValueError, match="shape: got 0"):
            call(torch.empty(3, 3), shape=0.0)
        with pytest.raises(ValueError, match="shape: got 0"):
            call(torch.empty(0, 3), shape=0.0)
