"""RF8 on weights: direct and scaled casts, where the window of exponents lies, what is flushed and clipped."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from narrowgauge import formats
from narrowgauge.formats.rf8 import bias_for
from narrowgauge.kernels import quantize
from narrowgauge.numerics import sqnr_db
from narrowgauge.priors import GeneralizedGaussian
from narrowgauge.priors.rf8_cast import cast_error, rf8_bias, rf8_cast


def weights(shape, *size, std=0.02, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return GeneralizedGaussian.from_std(shape, std).sample(size, generator=generator, dtype=torch.float32)


def model():
    torch.manual_seed(0)
    built = nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 50, bias=False))
    with torch.no_grad():
        built[1].weight.copy_(weights(1.0, 64, 32))
        built[2].weight[:10] = 2.0
    return built


def test_a_direct_cast_is_the_format_itself():
    built = model()
    before = copy.deepcopy(built.state_dict())
    errors = rf8_cast(built)
    assert [error.name for error in errors] == ["0.weight", "1.weight", "3.weight"]
    for name, value in built.state_dict().items():
        matrix = name in ("0.weight", "1.weight", "3.weight")
        expected = formats.get("rf8").round(before[name].numpy()) if matrix else before[name].numpy()
        assert np.array_equal(value.numpy(), expected.astype(np.float32))
    # N(0, 1) embeddings exceed 1.25: a direct cast clips them.
    table = before["0.weight"].abs()
    assert errors[0].clipped == pytest.approx(float((table > 1.25).float().mean()), abs=1e-9)
    assert errors[1].clipped == 0


def test_the_error_of_a_cast_by_hand():
    x = torch.tensor([[1.0, 0.0, -0.5, 1e-6, 2.0, 1.3, -2.0, 0.02]])
    error = cast_error("x", x, quantize(x, "rf8:static=1.0"))
    values = torch.tensor([[1.0, 0.0, -0.5, 0.0, 1.25, 1.25, -1.25, 0.01953125]])
    assert (error.name, error.scheme, error.count) == ("x", "rf8:static=1.0", 8)
    assert (error.flushed, error.clipped, error.worst) == (1 / 8, 3 / 8, 0.75 / 2)
    assert error.sqnr_db == pytest.approx(sqnr_db(values, x))
    assert error.relative_rms == pytest.approx(float((values - x).norm() / x.norm()))
    nothing = torch.zeros(2, 3)
    same = cast_error("x", nothing, quantize(nothing, "rf8/row"))
    assert (same.flushed, same.clipped, same.worst, same.sqnr_db) == (0, 0, 0, math.inf)


@pytest.mark.parametrize("scheme", ["rf8", "rf8/row", "rf8/1x128", "rf8/row:pow2", "int8/row", "e4m3fn/row"])
def test_scales_of_amax_clip_nothing(scheme):
    x = weights(0.5, 64, 256)
    assert cast_error("x", x, quantize(x, scheme)).clipped == 0


def test_schemes_and_functions_of_the_weight():
    built, other, whole = model(), model(), model()
    rf8_cast(built, "rf8/row")
    assert torch.equal(built[1].weight, quantize(model()[1].weight, "rf8/row").dequantize())
    errors = rf8_cast(other, lambda weight: f"rf8b{rf8_bias(weight)}:static=1.0")
    amax = float(model()[0].weight.detach().abs().max())
    assert errors[0].scheme == f"rf8b{bias_for(amax)}:static=1.0"
    # Of the largest values, those that the window's end rounds down are above it by less than a rounding.
    assert all(error.worst <= 0.109 for error in errors if error.flushed == 0)
    assert [error.name for error in rf8_cast(whole, matrices_only=False)] == [n for n, _ in whole.named_parameters()]
    only = rf8_cast(model(), filter_fn=lambda name, parameter: parameter.shape[0] == 64)
    assert [error.name for error in only] == ["1.weight"]


def test_weights_keep_their_type_and_bf16_holds_every_level():
    built = model().bfloat16()
    reference = built[1].weight.detach().float()
    rf8_cast(built)
    assert built[1].weight.dtype == torch.bfloat16
    assert np.array_equal(built[1].weight.detach().float().numpy(), formats.get("rf8").round(reference.numpy()))


def test_a_bias_from_a_high_quantile_flushes_less_of_heavy_tails():
    x = weights(0.26, 500, 1000)
    flushed = [cast_error("x", x, quantize(x, f"rf8b{rf8_bias(x, q)}:static=1.0")) for q in (1.0, 0.999)]
    assert rf8_bias(x, 0.999) > rf8_bias(x)
    assert flushed[1].flushed < 0.6 * flushed[0].flushed
    assert flushed[0].clipped < 1e-5 < flushed[1].clipped <= 0.001
    rows = cast_error("x", x, quantize(x, "rf8/row:pow2"))
    assert rows.flushed < 0.6 * flushed[0].flushed
    assert rows.clipped == 0


def test_what_is_flushed_grows_as_the_shape_falls():
    shares = [
        cast_error("x", x, quantize(x, "rf8:pow2")).flushed
        for shape in (2.0, 1.0, 0.5, 0.26, 0.13)
        for x in [weights(shape, 1000, 1000)]
    ]
    assert sorted(shares) == shares
    assert shares[0] < 3e-4
    assert 0.3 < shares[-1] < 0.7


def test_nothing_is_written_where_one_weight_cannot_be():
    built = model()
    with torch.no_grad():
        built[3].weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"^3.weight: got 1 NaN or infinite of 3200 values"):
        rf8_cast(built)
    assert torch.equal(built[1].weight, model()[1].weight)
    with pytest.raises(ValueError, match="unknown name 'rf9'"):
        rf8_cast(model(), "rf9")


def test_quantiles_that_give_no_bias():
    for quantile in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"^quantile: got {quantile}, accepted: above 0"):
            rf8_bias(torch.ones(3), quantile)
    with pytest.raises(ValueError, match=r"^x: its quantile 0.5 of magnitudes is 0"):
        rf8_bias(torch.tensor([0.0, 0.0, 1.0]), 0.5)
    assert rf8_bias(torch.tensor([-1.0, 0.1])) == 15
