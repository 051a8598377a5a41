"""Second moments that take the whole tensor: against the float64 reference, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels._moments_reference import decode_reference, encode_reference, unpack_reference
from narrowgauge.kernels._moments_whole import decode_whole, encode_whole
from narrowgauge.kernels.codecs import CODECS, second_moment
from narrowgauge.kernels.moments import MomentCodec, empty_moment

RANK1, QUANTILE = second_moment("int4"), second_moment("solo")
BOTH = [RANK1, QUANTILE, QUANTILE._replace(bits=4), QUANTILE._replace(bits=8), RANK1._replace(format="e5m2", bits=8)]
SHAPES = [(), (1,), (0, 5), (3, 0), (300,), (17, 71), (1, 9), (9, 1), (4, 3, 5, 2)]


def label(codec: MomentCodec) -> str:
    return f"{codec.kind}-{codec.bits}"


def second_moments(*shape: int, spread: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = 1e-6 * torch.randn(shape, generator=generator).square() + 1e-12
    return x * torch.exp(spread * torch.randn(shape, generator=generator))


def encode(x: Tensor, codec: MomentCodec, key: int = 5, offset: int = 0) -> tuple[Tensor, Tensor]:
    codes, scale = empty_moment(codec, x)
    assert scale is not None
    encode_whole(codec, x, x.shape, codes, scale, key, offset)
    return codes, scale


def round_trip(x: Tensor, codec: MomentCodec, key: int = 5) -> Tensor:
    return decode_whole(codec, *encode(x, codec, key), x.shape)


@pytest.mark.parametrize("codec", BOTH, ids=label)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_codes_and_values_are_those_of_the_reference(codec: MomentCodec, shape: tuple[int, ...], spread: float) -> None:
    x = second_moments(*shape, spread=spread)
    codes, scale = encode(x, codec, key=77, offset=6)
    wide = x.numpy().astype(np.float64)
    expected, expected_scale = encode_reference(wide, codec, key=77, offset=6)
    np.testing.assert_allclose(scale.numpy(), expected_scale, rtol=3e-7)
    ours, theirs = (unpack_reference(c.reshape(-1), codec, x.numel()).astype(int) for c in (codes.numpy(), expected))
    assert np.count_nonzero(ours != theirs) <= x.numel() // 500
    assert np.abs(ours - theirs).max(initial=0) <= 1
    decoded = decode_whole(codec, codes, scale, x.shape)
    reference = decode_reference(codes.numpy(), scale.numpy(), codec, shape)
    assert decoded.shape == x.shape
    np.testing.assert_allclose(decoded.numpy().reshape(-1), reference, rtol=2e-5)


@pytest.mark.parametrize("codec", BOTH, ids=label)
def test_strided_tensors_are_stored_like_contiguous_ones(codec: MomentCodec) -> None:
    x = second_moments(34, 142)[::2, ::2]
    for ours, theirs in zip(encode(x, codec), encode(x.contiguous(), codec), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("codec", BOTH, ids=label)
def test_zeros_and_empty_states_read_back_as_zero(codec: MomentCodec) -> None:
    x = torch.zeros(17, 71)
    codes, scale = encode(x, codec)
    empty_codes, empty_scale = empty_moment(codec, x)
    assert empty_scale is not None
    assert torch.equal(decode_whole(codec, codes, scale, x.shape), x)
    assert torch.equal(decode_whole(codec, empty_codes, empty_scale, x.shape), x)
    assert torch.equal(scale, empty_scale)


@pytest.mark.parametrize("codec", BOTH, ids=label)
@pytest.mark.parametrize("tiny", [1e-10, 1e-20, 1e-37])
def test_positive_second_moment_never_reads_back_as_zero(codec: MomentCodec, tiny: float) -> None:
    x = torch.ones(16, 16)
    x[:, 3::5] = tiny
    assert (round_trip(x, codec) > 0).all()


def test_rank1_keeps_zero_among_others_and_the_largest_of_every_row_or_column() -> None:
    x = second_moments(20, 30)
    x[3, 4] = 0.0
    decoded = round_trip(x, RANK1)
    assert decoded[3, 4] == 0.0
    assert torch.allclose(decoded.amax(), x.amax())
    # A product of row and column factors has every element at its row's or column's scale: far better than groups.
    outer = torch.outer(torch.logspace(-8, -4, 20), torch.ones(30))
    assert float((round_trip(outer, RANK1) / outer - 1).abs().max()) < 1e-6


def test_rank1_nan_reaches_its_own_element_alone() -> None:
    x = second_moments(20, 30)
    clean = x.clone()
    x[3, 4] = torch.nan
    decoded = round_trip(x, RANK1)
    assert torch.isnan(decoded).nonzero().tolist() == [[3, 4]]
    others = torch.ones_like(x, dtype=torch.bool)
    others[3], others[:, 4] = False, False
    # The scale of no other row or column moves.
    assert torch.equal(decoded[others], round_trip(clean, RANK1)[others])


def test_rank1_infinities_make_nan_where_their_rows_and_columns_cross() -> None:
    x = second_moments(20, 30)
    x[3, 4], x[7, 9] = torch.inf, torch.nan
    assert torch.isnan(round_trip(x, RANK1)).nonzero().tolist() == [[3, 4], [3, 9], [7, 4], [7, 9]]


@pytest.mark.parametrize("codec", [QUANTILE, QUANTILE._replace(bits=8)], ids=label)
def test_quantile_nan_stays_in_its_group(codec: MomentCodec) -> None:
    x = second_moments(1024)
    clean = round_trip(x, codec)
    x[200] = torch.nan
    decoded = round_trip(x, codec).view(-1, 128)
    assert torch.isnan(decoded[1]).all()
    others = torch.arange(8) != 1
    assert torch.equal(decoded[others], clean.view(-1, 128)[others])


def test_quantile_reads_back_between_the_maximum_and_the_tenth_of_the_group() -> None:
    x = second_moments(128)
    decoded = round_trip(x, QUANTILE)
    tenth = torch.quantile(x, 0.1)
    assert len(decoded.unique()) == 4
    torch.testing.assert_close(decoded.max(), x.max())
    torch.testing.assert_close(decoded.min(), tenth, rtol=1e-5, atol=0.0)


def test_quantile_rounds_logarithms_without_bias() -> None:
    x = second_moments(128)
    draws = torch.stack([round_trip(x, QUANTILE._replace(bits=4), key) for key in range(600)])
    inside = (x > torch.quantile(x, 0.1)) & (x < x.max())
    step = torch.log(draws[0].max() / draws.min()) / 15
    error = (draws.log().mean(0) - x.log())[inside] / step
    assert float(error.abs().max()) < 4.5 * 0.5 / 600**0.5
    assert abs(float(error.mean())) < 4.5 * 0.5 / (600 * int(inside.sum())) ** 0.5


def test_stated_numbers_fit_the_codecs() -> None:
    assert CODECS["int4"][1].scale_shape(torch.Size((4, 3, 5))) == (4 + 15,)
    assert CODECS["int4"][1].scale_shape(torch.Size((0, 5))) == (5,)
    assert CODECS["int4"][1].scale_shape(torch.Size((300,))) == (3, 1)
    assert CODECS["solo"][1].scale_shape(torch.Size((3, 100))) == (3, 2)
