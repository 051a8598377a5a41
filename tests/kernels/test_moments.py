"""Stored moments: published vectors, the cases in which the published code fails, and accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels.codecs import CODECS, first_moment, second_moment
from narrowgauge.kernels.moments import MomentCodec, check_moment, empty_moment
from narrowgauge.kernels.stored_moments import Stored, read_moments, write_moments

COAT_M, COAT_V = CODECS["coat"]


def label(codec: MomentCodec) -> str:
    return f"{codec.kind}-{codec.format}-{'v' if codec.second else 'm'}{codec.bits}-{codec.group}-{codec.power_steps}"


def encode(x: Tensor, codec: MomentCodec, key: int = 1) -> Stored:
    """One moment as it is stored."""
    stored = Stored(*empty_moment(codec, x))
    if codec.second:
        write_moments(None, codec, None, x, None, stored, (key, key))
    else:
        write_moments(codec, None, x, None, stored, None, (key, key))
    return stored


def decode(codec: MomentCodec, stored: Stored, shape: torch.Size, key: int = 1) -> Tensor:
    pair = (None, codec, None, stored) if codec.second else (codec, None, stored, None)
    values = read_moments(*pair, shape, (key, key))[codec.second]
    assert values is not None
    return values


def round_trip(x: Tensor, codec: MomentCodec) -> Tensor:
    return decode(codec, encode(x, codec), x.shape)


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
    error = round_trip(m, first_moment(name)._replace(whitened=False)) - m
    assert float(error.square().mean() / m.square().mean()) == pytest.approx(m_error, rel=0.1)
    assert relative_rms(v, second_moment(name)) == pytest.approx(v_error, rel=0.1)


def test_stored_tensors_that_do_not_fit_are_named() -> None:
    shape = torch.Size([200])
    codes, scale = empty_moment(COAT_M, torch.empty(200))
    check_moment(COAT_M, codes, scale, shape, "m")
    with pytest.raises(ValueError, match=r"m: expected 100 contiguous torch.uint8"):
        check_moment(COAT_M, codes, scale, torch.Size([100]), "m")
    with pytest.raises(ValueError, match=r"m_scale: expected contiguous torch.float32 \(2, 2\), got none"):
        check_moment(COAT_M, codes, None, shape, "m")
    with pytest.raises(ValueError, match=r"v_scale: expected none, got torch.float32"):
        check_moment(second_moment("fp32"), torch.zeros(200), scale, shape, "v")
