"""Stored moments: published vectors, the cases in which the published code fails, and accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels._moments_reference import decode_reference, encode_reference
from narrowgauge.kernels._moments_torch import Scratch, decode_moment, encode_block, parts
from narrowgauge.kernels.moments import (
    CODECS,
    MomentCodec,
    check_moment,
    empty_moment,
    first_moment,
    second_moment,
)

SCHEMES = [first_moment(text) for text in ("nf4/1x64", "hif8/1x128", "int6f3/1x32")]
SCHEMES += [second_moment(text) for text in ("posit8es1/1x128", "udynamic4/1x64", "uint4/1x32", "rf8/1x256")]
CODED = [codec for pair in CODECS.values() for codec in pair if codec.columns] + SCHEMES
COAT_M, COAT_V = CODECS["coat"]
SECOND = [codec for codec in CODED if codec.second]


def label(codec: MomentCodec) -> str:
    return f"{codec.kind}-{codec.format}-{'v' if codec.second else 'm'}-{codec.power_steps}"


def encode(x: Tensor, codec: MomentCodec) -> tuple[Tensor, Tensor]:
    codes, scale = empty_moment(codec, x)
    assert scale is not None
    work = x.clone().view(-1)
    for part in parts(codec, codes.view(-1), scale, work, 0, x.numel()):
        encode_block(*part, Scratch(x.numel()))
    return codes, scale


def round_trip(x: Tensor, codec: MomentCodec) -> Tensor:
    return decode_moment(codec, *encode(x, codec))


def relative_rms(x: Tensor, codec: MomentCodec) -> float:
    error = (round_trip(x, codec) / x - 1).double()
    return float(error.square().mean().sqrt())


def hexadecimal(codes: Tensor) -> str:
    return " ".join(f"{code:02X}" for code in codes.tolist())


def test_first_moment_vector_of_coat() -> None:
    i = torch.arange(128)
    x = (-1.0) ** i * 2.0 ** (-i / 16)
    codes, scale = encode(x, COAT_M)
    assert hexadecimal(codes[:16]) == "7E FD 7C FB 7A F9 78 F7 76 F5 73 F2 72 F1 70 EF"
    assert hexadecimal(codes[120:]) == "05 85 04 84 04 83 03 83"
    assert scale.tolist() == [[1.0, 2.0625]]
    decoded = round_trip(x, COAT_M)
    torch.testing.assert_close(decoded[:4], torch.tensor([1.0, -0.9647067, 0.927985, -0.8896501]), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(decoded[-3:], torch.tensor([-0.0042882, 0.0042882, -0.0042882]), rtol=2e-5, atol=0.0)
    assert relative_rms(x, COAT_M) == pytest.approx(0.01588, abs=5e-6)
    assert float((decoded / x - 1).abs().max()) == pytest.approx(0.0613, abs=5e-5)


def test_centre_and_scale_of_coat_follow_from_what_is_stored() -> None:
    # The authors' c and s for the vector above: c is the geometric middle, s = (a / c)^k / 448.
    i = torch.arange(128)
    magnitude = 2.0 ** (-i / 16)
    a, k = encode(magnitude, COAT_M)[1][0].tolist()
    c = (a * float(magnitude.min())) ** 0.5
    assert c == pytest.approx(0.063868572, rel=1e-7)
    assert (a / c) ** k / 448 == pytest.approx(0.64985599, rel=1e-6)


def test_second_moment_vector_of_coat() -> None:
    v = 1e-8 * (1 + torch.arange(128) / 64)
    codes, scale = encode(v, COAT_V)
    assert hexadecimal(codes[:8]) == "02 03 03 04 04 05 06 07"
    assert hexadecimal(codes[120:]) == "79 7A 7B 7B 7C 7D 7D 7E"
    assert scale[0, 1] == 10.5
    assert float(scale[0, 0]) == pytest.approx(2.984375e-8, rel=1e-6)
    assert relative_rms(v, COAT_V) == pytest.approx(0.003253, abs=1e-6)


def test_paper_range_uses_every_code_down_to_the_smallest() -> None:
    v = 1e-8 * (1 + torch.arange(128) / 64)
    codes, scale = encode(v, second_moment("coat_paper"))
    assert codes[0] == 1
    assert codes[-1] == 0x7E
    assert float(scale[0, 1]) == pytest.approx(np.log2(448 / 2**-9) / np.log2(2.984375), rel=1e-4)


@pytest.mark.parametrize("codec", CODED, ids=label)
@pytest.mark.parametrize("value", [1e-3, 0.37, 1.0, 3e-7, 1.7e-30])
@pytest.mark.parametrize("count", [1, 128, 300])
def test_constant_groups_keep_their_value(codec: MomentCodec, value: float, count: int) -> None:
    x = torch.full((count,), value)
    torch.testing.assert_close(round_trip(x, codec), x, rtol=3e-7, atol=0.0)


@pytest.mark.parametrize("codec", CODED, ids=label)
def test_zero_groups_read_back_as_zero(codec: MomentCodec) -> None:
    assert torch.equal(round_trip(torch.zeros(300), codec), torch.zeros(300))


@pytest.mark.parametrize("codec", CODED, ids=label)
def test_zero_reads_back_as_zero_among_others(codec: MomentCodec) -> None:
    x = torch.randn(1024, generator=torch.Generator().manual_seed(0)).abs()
    x[::3] = 0.0
    assert torch.equal(round_trip(x, codec)[::3], torch.zeros(342))


@pytest.mark.parametrize("codec", [COAT_M, COAT_V], ids=label)
@pytest.mark.parametrize("lane", [0, 1, 32, 64, 127])
def test_one_zero_costs_the_others_nothing_in_any_lane(codec: MomentCodec, lane: int) -> None:
    x = 1e-4 * (1 + torch.rand(128, generator=torch.Generator().manual_seed(1)))
    with_zero = x.clone()
    with_zero[lane] = 0.0
    others = torch.arange(128) != lane
    decoded = round_trip(with_zero, codec)
    assert decoded[lane] == 0.0
    assert float((decoded / x - 1)[others].abs().max()) < 0.02


def test_tiny_outlier_costs_a_group_no_more_than_the_floor_of_k_allows() -> None:
    x = 1e-4 * torch.randn(128, generator=torch.Generator().manual_seed(2))
    for outlier, rms in ((1e-12, 0.06), (1e-20, 0.065), (1e-37, 0.065)):
        x[7] = outlier
        decoded = round_trip(x, COAT_M)
        others = torch.arange(128) != 7
        assert float((decoded / x - 1)[others].square().mean().sqrt()) < rms
    assert encode(x, COAT_M)[1][0, 1] == 0.5
    assert decoded[7] == 0.0


@pytest.mark.parametrize("codec", SECOND, ids=label)
@pytest.mark.parametrize("tiny", [1e-10, 1e-20, 1e-37])
def test_positive_second_moment_never_reads_back_as_zero(codec: MomentCodec, tiny: float) -> None:
    v = torch.ones(256)
    v[5] = tiny
    v[9] = 0.0
    decoded = round_trip(v, codec)
    assert decoded[5] > 0.0
    assert decoded[9] == 0.0
    assert (decoded[[0, 128]] - 1).abs().max() < 1e-6


@pytest.mark.parametrize("codec", CODED, ids=label)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_values_stay_in_their_group(codec: MomentCodec, poison: float) -> None:
    x = torch.rand(1024, generator=torch.Generator().manual_seed(3)) + 0.1
    clean = round_trip(x, codec)
    x[codec.group + 5] = poison
    decoded = round_trip(x, codec).view(-1, codec.group)
    assert torch.isnan(decoded[1]).all()
    others = torch.arange(len(decoded)) != 1
    assert torch.equal(decoded[others], clean.view(-1, codec.group)[others])


@pytest.mark.parametrize("codec", CODED, ids=label)
@pytest.mark.parametrize("spread", [0.0, 3.0, 12.0])
def test_codes_are_those_of_the_float64_definition(codec: MomentCodec, spread: float) -> None:
    rng = np.random.default_rng(5)
    x = (1e-4 * rng.standard_normal(5000) * np.exp(spread * rng.standard_normal(5000))).astype(np.float32)
    x[rng.random(5000) < 0.1] = 0.0
    x = np.square(x) if codec.second else x
    codes, scale = encode(torch.from_numpy(x), codec)
    expected, expected_scale = encode_reference(x.astype(np.float64), codec)
    differs = codes.numpy().astype(int) - expected.astype(int)
    assert np.count_nonzero(differs) <= 3
    assert np.abs(differs).max() <= 1
    np.testing.assert_allclose(scale.numpy(), expected_scale, rtol=3e-5)
    decoded = decode_moment(codec, codes, scale).numpy()
    np.testing.assert_allclose(decoded, decode_reference(codes.numpy(), scale.numpy(), codec), rtol=1e-5, atol=1e-44)


def stationary_moments(count: int, beta1: float, beta2: float) -> tuple[Tensor, Tensor]:
    """m and v of independent Gaussian gradients, after ten time constants."""
    generator = torch.Generator().manual_seed(4)
    m, v = torch.zeros(count), torch.zeros(count)
    for _ in range(int(10 / (1 - beta2))):
        g = 1e-3 * torch.randn(count, generator=generator)
        m.lerp_(g, 1 - beta1)
        v.lerp_(g * g, 1 - beta2)
    return m, v


def test_coat_has_the_accuracy_of_its_error_law() -> None:
    m, v = stationary_moments(1 << 16, 0.9, 0.95)
    error = round_trip(m, COAT_M) - m
    assert float(error.square().mean() / m.square().mean()) == pytest.approx(2.1e-4, rel=0.1)
    assert relative_rms(v, COAT_V) == pytest.approx(3.2e-3, rel=0.05)
    k_m, k_v = (encode(x, codec)[1][:, 1] for x, codec in ((m, COAT_M), (v, COAT_V)))
    assert float(k_m.mean()) == pytest.approx(1.89, abs=0.05)
    assert float(k_v.mean()) == pytest.approx(9.96, abs=0.2)
    assert float(k_v.quantile(0.05)) == pytest.approx(8.2, abs=0.3)
    assert float(k_v.quantile(0.95)) == pytest.approx(11.8, abs=0.3)


@pytest.mark.parametrize(("name", "m_error", "v_error"), [
    ("fp8", 6.8e-4, 2.6e-2), ("dynamic8", 1.18e-4, 4.0e-3), ("int8", 4.2e-5, 3.3e-3), ("coat_paper", 1.8e-4, 3.2e-3),
])  # fmt: skip
def test_codecs_have_their_published_accuracy(name: str, m_error: float, v_error: float) -> None:
    m, v = stationary_moments(1 << 15, 0.9, 0.95)
    error = round_trip(m, first_moment(name)) - m
    assert float(error.square().mean() / m.square().mean()) == pytest.approx(m_error, rel=0.1)
    assert relative_rms(v, second_moment(name)) == pytest.approx(v_error, rel=0.1)


@pytest.mark.parametrize(("name", "bytes_per_parameter"), [
    ("coat", 2.125), ("fp8", 2.03125), ("int8", 2.0625), ("dynamic8", 2.03125), ("bf16", 4.0), ("fp32", 8.0),
])  # fmt: skip
def test_codecs_take_the_stated_bytes(name: str, bytes_per_parameter: float) -> None:
    assert sum(codec.bytes_per_parameter for codec in CODECS[name]) == bytes_per_parameter


def test_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"state: unknown codec 'dynamic'; nearest: dynamic8"):
        first_moment("dynamic")
    with pytest.raises(TypeError, match="state: expected the name"):
        second_moment(8)  # type: ignore[arg-type]


def test_stored_tensors_that_do_not_fit_are_named() -> None:
    codes, scale = empty_moment(COAT_M, torch.empty(200))
    check_moment(COAT_M, codes, scale, 200, "m")
    with pytest.raises(ValueError, match=r"m: expected 100 contiguous torch.uint8"):
        check_moment(COAT_M, codes, scale, 100, "m")
    with pytest.raises(ValueError, match=r"m_scale: expected contiguous torch.float32 \(2, 2\), got none"):
        check_moment(COAT_M, codes, None, 200, "m")
    with pytest.raises(ValueError, match=r"v_scale: expected none, got torch.float32"):
        check_moment(second_moment("fp32"), torch.zeros(200), scale, 200, "v")
