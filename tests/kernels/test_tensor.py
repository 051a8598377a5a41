"""quantize, QuantizedTensor and fake_quantize as users call them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import narrowgauge as ng
from narrowgauge import formats


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(48, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "scheme", ["e4m3fn/row", "int8/32x32", "rf8/row", "mxfp8", "nvfp4", "e5m2/1x16+sr", "nf4/1x64", "mx6", "nf4/row+sr"]
)
def test_dequantized_values_are_codes_times_scale(scheme: str, x: torch.Tensor) -> None:
    q = ng.quantize(x, scheme, seed=3)
    reference = formats.quantize_reference(x.numpy(), scheme, seed=3)
    np.testing.assert_array_equal(q.codes.numpy(), reference.codes)
    np.testing.assert_allclose(q.dequantize().numpy(), reference.dequantize(), rtol=2**-24, atol=0)
    assert q.shape == x.shape
    assert q.dequantize().dtype == x.dtype
    assert str(q.scheme) in repr(q)


def test_nbytes_counts_codes_and_scales(x: torch.Tensor) -> None:
    assert ng.quantize(x, "e4m3fn/row").nbytes == 48 * 96 + 48 * 4
    assert ng.quantize(x, "mxfp8").nbytes == 48 * 96 + 48 * 3
    assert ng.quantize(x, "nvfp4").nbytes == 48 * 96 + 48 * 6 + 4


def test_quantized_tensor_is_a_pytree(x: torch.Tensor) -> None:
    q = ng.quantize(x, "e4m3fn/row")
    leaves, spec = pytree.tree_flatten(q)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    again = pytree.tree_unflatten(leaves, spec)
    assert again.scheme == q.scheme
    assert torch.equal(again.dequantize(), q.dequantize())


@pytest.mark.parametrize("scheme", ["e4m3fn/1x32", "mxfp8", "nvfp4_2d", "mx6", "hbfp8"])
def test_factors_are_what_values_are_multiplied_by(scheme: str, x: torch.Tensor) -> None:
    q = ng.quantize(x[:, :70], scheme)
    height, width = q.scheme.factor_tile
    spread = q.factors().repeat_interleave(height, 0)[:48].repeat_interleave(width, 1)[:, :70]
    values = torch.from_numpy(q.scheme.element.decode(q.codes.numpy())).float() * spread
    assert torch.equal(values, q.dequantize())
    torch.library.opcheck(torch.ops.narrowgauge.block_factors.default, (q.scale, q.outer, q.text, 70))


def test_quantize_does_not_change_its_input(x: torch.Tensor) -> None:
    before = x.clone()
    ng.quantize(x, "rf8/row")
    ng.quantize(x.t(), "e3m4/row")
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "scheme", ["e4m3fn/row", "int8", "mxfp8", "nvfp4", "rf8/1x32", "e5m2/row+sr", "nf4/row", "e5m2+ftz", "int8/row:mse"]
)
def test_compiled_quantize_gives_the_same_bits(scheme: str, x: torch.Tensor) -> None:
    torch.compiler.reset()  # one function with more schemes than the compiler keeps versions of
    compiled = torch.compile(lambda t: ng.quantize(t, scheme, seed=5), fullgraph=True)
    q, expected = compiled(x), ng.quantize(x, scheme, seed=5)
    assert torch.equal(q.codes, expected.codes)
    assert torch.equal(q.scale, expected.scale)
    assert torch.equal(q.outer, expected.outer)


def test_nan_and_infinity_stay_in_their_group(x: torch.Tensor) -> None:
    x[3, 4], x[7, 0] = float("nan"), float("inf")
    y = ng.quantize(x, "e4m3fn/row").dequantize()
    spoiled = torch.isnan(y).all(dim=1)
    assert spoiled.nonzero().flatten().tolist() == [3, 7]
    assert not torch.isnan(y[~spoiled]).any()


def test_saturate_policy_clamps_infinities_and_keeps_the_finite_scale(x: torch.Tensor) -> None:
    clean = ng.quantize(x, "int8/row")
    row = x[7].clone()
    row[0] = 0.0
    expected = ng.quantize(row, "int8/row")
    x[7, 0] = -float("inf")
    q = ng.quantize(x, "int8/row", nonfinite="saturate")
    assert q.codes[7, 0] == -127
    assert q.scale[7] == expected.scale[0]
    assert torch.equal(q.codes[:7], clean.codes[:7])


def test_raise_policy_counts_what_is_not_finite(x: torch.Tensor) -> None:
    x[0, :3] = float("nan")
    x[1, 1] = float("inf")
    with pytest.raises(ValueError, match="3 NaN and 1 infinite of 4608"):
        ng.quantize(x, "e4m3fn", nonfinite="raise")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: ng.quantize(x, "e4m3fm/row"), ValueError, "unknown name 'e4m3fm'; nearest: e4m3fn"),
        (lambda x: ng.quantize(x, "e4m3fn/rows"), ValueError, "granularity: got 'rows', accepted: tensor"),
        (lambda x: ng.quantize(x, "e4m3fn:amx"), ValueError, "did you mean 'amax'"),
        (lambda x: ng.quantize(x, "e4m3fn/row+sr"), ValueError, "seed: stochastic scheme"),
        (lambda x: ng.quantize(x, "e4m3fn+sr", seed=-1), ValueError, "seed: expected"),
        (lambda x: ng.quantize(x, "nvfp4/row"), ValueError, "fixes its blocks at 1x16"),
        (lambda x: ng.quantize(x, "e8m0fnu"), ValueError, "holds scales"),
        (lambda x: ng.quantize(x, "bf16"), ValueError, "at most 8 bits"),
        (lambda x: ng.quantize(x, "dfp16"), ValueError, "at most 8 bits"),
        (lambda x: ng.quantize(x.int(), "e4m3fn"), TypeError, "x: expected dtype float32"),
        (lambda x: ng.quantize([1.0], "e4m3fn"), TypeError, "x: expected a torch.Tensor, got list"),
        (lambda x: ng.quantize(x, 8), TypeError, "scheme: expected a string"),
        (lambda x: ng.quantize(x, "e4m3fn", nonfinite="rase"), ValueError, "did you mean 'raise'"),
        (lambda x: ng.fake_quantize(x, "e4m3fn", ste="clip"), ValueError, "ste: got 'clip'"),
        (lambda x: ng.quantize(x, "e4m3fn+sr", seed=1.5), TypeError, "seed: expected an integer, got 1.5"),
        (
            lambda x: ng.quantize(x, "e4m3fn").dequantize(torch.int8),
            TypeError,
            "dtype: expected a floating one, got int8",
        ),
        (
            lambda x: replace(ng.quantize(x, "nvfp4"), outer=torch.ones(2)).dequantize(),
            ValueError,
            "outer: nvfp4 has one",
        ),
        (
            lambda x: replace(ng.quantize(x, "nvfp4"), outer=torch.ones(2)).requantize("int8"),
            ValueError,
            "outer: nvfp4",
        ),
        (
            lambda x: replace(ng.quantize(x, "int8"), scale=torch.ones(2)).dequantize(),
            ValueError,
            "^scale: int8 on shape",
        ),
    ],
)
def test_bad_input_is_named(call, error: type[Exception], text: str, x: torch.Tensor) -> None:
    with pytest.raises(error, match=text):
        call(x)


def test_fake_quantize_passes_the_gradient_straight_through(x: torch.Tensor) -> None:
    x.requires_grad_()
    y = ng.fake_quantize(x, "e4m3fn/row")
    assert torch.equal(y, ng.quantize(x, "e4m3fn/row").dequantize())
    weights = torch.randn_like(x)
    (y * weights).sum().backward()
    assert torch.equal(x.grad, weights)


def test_clipped_straight_through_stops_where_values_were_clipped(x: torch.Tensor) -> None:
    x.requires_grad_()
    ng.fake_quantize(x, "int4:static=0.1", ste="clipped").sum().backward()
    assert torch.equal(x.grad, (x.detach().abs() <= torch.tensor(0.1) * 7).float())
    assert 0 < x.grad.mean() < 1
