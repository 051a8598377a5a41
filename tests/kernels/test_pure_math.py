"""Pieces of the pure functions; those for compilers are tried as compilers see them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.formats import get
from narrowgauge.kernels._masters_reference import bfloat16
from narrowgauge.kernels._pure_math import bfloat16_values, exp2, float_codes, float_values, keep, log2
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.random_words import halves


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.mark.usefixtures("compiling")
def test_logarithms_and_powers_are_good_to_float32() -> None:
    rng = np.random.default_rng(0)
    x = np.exp2(rng.uniform(-126, 127.9, 100_000)).astype(np.float32)
    error = log2(torch.from_numpy(x)).numpy() - np.log2(x.astype(np.float64))
    assert np.max(np.abs(error) / np.maximum(np.abs(np.log2(x.astype(np.float64))), 1.0)) < 2e-7
    y = rng.uniform(-125, 127.9, 100_000).astype(np.float32)
    error = exp2(torch.from_numpy(y)).numpy() / np.exp2(y.astype(np.float64)) - 1
    assert np.max(np.abs(error)) < 2e-7
    assert float(exp2(torch.tensor(3.0))) == 8.0
    assert torch.isnan(exp2(torch.tensor(float("nan"))))


@pytest.mark.usefixtures("compiling")
def test_kept_numbers_are_themselves() -> None:
    numbers = torch.arange(3.0).view(3, 1), torch.ones(3, 1)
    assert all(torch.equal(a, b) for a, b in zip(keep(*numbers), numbers, strict=True))


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e3m4", "e2m1fn", "e2m3fn", "ue4m3fn", "e4m3fnuz"])
def test_minifloats_are_those_of_the_format(name: str) -> None:
    fmt = get(name)
    layout = layout_of(fmt)
    assert layout.kind == "float"
    codes = np.arange(1 << fmt.bits, dtype=np.uint8)
    values = fmt.decode(codes).astype(np.float32)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(float_values(torch.from_numpy(codes), layout).numpy()[finite], values[finite])
    x = np.abs(np.random.default_rng(1).standard_normal(20_000) * np.exp2(np.linspace(-12, 6, 20_000)))
    magnitudes = np.sort(np.unique(np.abs(values[finite])))
    ties = (magnitudes[1:] + magnitudes[:-1]) / 2
    x = np.minimum(np.concatenate((x, magnitudes, ties)), fmt.max).astype(np.float32)
    ours = float_codes(torch.from_numpy(x).view(torch.int32), layout)
    np.testing.assert_array_equal(ours.numpy(), fmt.encode(x.astype(np.float64)))


def test_bfloat16_is_rounded_as_defined() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    x[:4] = torch.tensor([float("inf"), -float("inf"), float("nan"), 3.4e38])
    random = halves(1000, 5)
    u = torch.from_numpy((random.astype(np.float32) + 0.5) / 65536)
    np.testing.assert_array_equal(bfloat16_values(x, u).numpy(), bfloat16(x.numpy(), random))
    np.testing.assert_array_equal(bfloat16_values(x, None).numpy(), bfloat16(x.numpy()))
