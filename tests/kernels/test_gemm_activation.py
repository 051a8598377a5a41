"""Activations: the float32 forms near the float64 definition, slopes, names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.kernels._gemm_activation import (
    ACTIVATIONS,
    ROUNDINGS,
    STEEPEST,
    activate,
    activate_,
    activated,
    check_activation,
)
from narrowgauge.kernels._triton import jit, tl


@jit
def _kernel(x_ptr, out_ptr, NAME: tl.constexpr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    tl.store(out_ptr + offs, activate(tl.load(x_ptr + offs), NAME))


def inputs() -> torch.Tensor:
    near = torch.linspace(-12, 12, 4000)
    far = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 50.0, -50.0, 1e4, -1e4, 1e30, -1e30])
    return torch.cat([near, far, torch.zeros(4096 - 4010)])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_both_float32_forms_stay_within_their_roundings(name: str, device: torch.device) -> None:
    x = inputs()
    expected = activated(x.double(), name)
    limit = ROUNDINGS * (x.double().abs() + 2.0**-126)
    out = torch.empty_like(x, device=device)
    with np.errstate(over="ignore"):
        _kernel[(1,)](x.to(device), out, NAME=name, SIZE=4096)
    assert ((activate_(x.clone(), name).double() - expected).abs() <= limit).all()
    assert ((out.cpu().double() - expected).abs() <= limit).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_slope_is_steeper_than_stated_and_zero_stays_zero(name: str) -> None:
    x = torch.linspace(-10, 10, 200001, dtype=torch.float64)
    y = activated(x, name)
    assert ((y[1:] - y[:-1]).abs() <= STEEPEST * (x[1] - x[0]) * (1 + 1e-9)).all()
    assert activated(torch.zeros(1, dtype=torch.float64), name).item() == 0.0


def test_the_two_forms_of_gelu_differ() -> None:
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)
    difference = (activated(x, "gelu") - activated(x, "gelu_tanh")).abs().max()
    assert 1e-4 < difference < 1e-3


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays_nan(name: str) -> None:
    assert torch.isnan(activate_(torch.tensor([torch.nan]), name)).all()


def test_an_unknown_activation_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"activation: got 'gelo', accepted: none, relu.*did you mean 'gelu'"):
        check_activation("gelo")
