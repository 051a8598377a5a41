"""Where the oracles of the extra `oracles` and microxcaling differ from the specifications or from us, and why.

One test for each row of the table in `docs/oracles.md`; each is skipped where its library is not installed. qtorch
compiles itself at its import, which takes half a minute: its test is slow.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from narrowgauge import formats
from narrowgauge.formats import p3109, quantize_reference
from oracles import read

INF, NAN = np.inf, np.nan


def oracle(name: str) -> Any:
    """The module, or a skipped test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library says about itself while it is loaded
        return pytest.importorskip(name)


def test_en_dtypes_truncates_to_powers_of_two() -> None:
    """E8M0 scales are not cast to in MX but chosen by exponent; as a cast, ours is to nearest like every other. Below
    2^-127 it gives NaN, where we have the smallest value."""
    dtype = oracle("en_dtypes").float8_e8m0
    x = np.array([0.75, 1.5, 3.0, 1.5 * 2.0**127, 2.0**-128, 0.0, -1.0, INF], dtype=np.float32)
    read("en-dtypes", x.astype(dtype).view(np.uint8), [126, 127, 128, 254, 255, 255, 255, 255])
    fmt = formats.get("e8m0fnu")
    assert fmt.encode(x, overflow="nonsaturating").tolist() == [126, 128, 128, 254, 0, 255, 255, 255]
    assert fmt.encode(x[:4], "toward_zero").tolist() == [126, 127, 128, 254]


def test_en_dtypes_makes_nan_a_zero_of_its_sign() -> None:
    """Where ml_dtypes takes the other sign. We refuse unless told."""
    dtype = oracle("en_dtypes").float4_e2m1
    read("en-dtypes", np.array([NAN, -NAN], dtype=np.float32).astype(dtype).view(np.uint8), [0, 8])
    assert formats.get("e2m1fn").encode([NAN, -NAN], nan="zero").tolist() == [0, 0]


def test_bitstring_rounds_to_bf16_twice() -> None:
    """Up to three units of float32 above a midpoint count as the midpoint. Its eight-bit types are not affected."""
    bits = oracle("bitstring").Bits
    x = 1 + 2.0**-8 + 2.0**-23 * np.array([0, 1, 3, 8])
    read("bitstring", [bits(bfloat=each).bfloat for each in x.tolist()], [1.0, 1.0, 1.0, 1 + 2.0**-7])
    assert formats.get("bf16").round(x).tolist() == [1.0] + 3 * [1 + 2.0**-7]


def test_bitstring_has_one_nan() -> None:
    """All bits set, whatever the sign."""
    bits = oracle("bitstring").Bits
    for theirs, ours in (("e4m3mxfp_overflow", "e4m3fn"), ("e5m2mxfp_overflow", "e5m2")):
        read("bitstring", [bits(**{theirs: each}).uint for each in (NAN, -NAN)], [255, 255])
        assert np.isnan(formats.get(ours).decode(255))


def test_pychop_rounds_to_odd_beyond_the_largest_value_to_infinity() -> None:
    """Ours stays at the largest value, as toward zero and as in apytypes: what is rounded again to fewer bits must not
    have become infinite before."""
    module, x = oracle("pychop"), np.array([225.0, 1e9])
    read("pychop", module.p3109_quantize(x, module.P3109Format(8, 4), rounding="to_odd"), [INF, INF])
    assert p3109(8, 4).round(x, "to_odd", overflow="nonsaturating").tolist() == [224.0, 224.0]


def test_pychop_overflows_finite_p3109_domains_to_nan() -> None:
    """As gfloat does; v4.0 clamps."""
    module = oracle("pychop")
    x = np.array([300.0, INF])
    read("pychop", module.p3109_quantize(x, module.P3109Format(8, 4, True, "finite")), [NAN, NAN])
    assert p3109(8, 4, extended=False).round(x, overflow="nonsaturating").tolist() == [240.0, 240.0]


def test_pychop_keeps_nan_and_infinity_to_themselves_in_a_block() -> None:
    """MX leaves open what a block becomes; ours becomes NaN as a whole, as in microxcaling and torchao."""
    module = oracle("pychop")
    for bad, expected in ((NAN, [NAN, 1.0]), (INF, [INF, 0.0])):
        x = np.ones(32)
        x[0] = bad
        with np.errstate(all="ignore"):
            values = np.asarray(module.mx_quantize(x, "mxfp8_e4m3"))
        read("pychop", values[:2], expected)
        assert np.isnan(quantize_reference(x.astype(np.float32)[None], "mxfp8").dequantize()).all()


def quantize_mx(x: list[float], element: str, rounding: str = "even") -> list[float]:
    """microxcaling's values of one block of 32, `x` followed by zeros."""
    op = oracle("mx.mx_ops")._quantize_mx
    block = torch.tensor([x + (32 - len(x)) * [0.0]])
    return op(block, 8, element, axes=[-1], block_size=32, round=rounding)[0, : len(x)].tolist()


def test_microxcaling_rounds_ties_away_unless_told_otherwise() -> None:
    x = [4.0, 2.5, 5.0, -2.5]
    read("microxcaling", quantize_mx(x, "fp4_e2m1", "nearest"), [4.0, 3.0, 6.0, -3.0])
    read("microxcaling", quantize_mx(x, "fp4_e2m1", "even"), [4.0, 2.0, 4.0, -2.0])
    assert quantize_reference(np.array([x], dtype=np.float32), "mxfp4").dequantize().tolist() == [[4.0, 2.0, 4.0, -2.0]]
    assert formats.get("e2m1fn").round(x, "nearest_away").tolist() == [4.0, 3.0, 6.0, -3.0]


@pytest.mark.parametrize("exponent", [3, 10, -3])
def test_microxcaling_takes_exponents_from_a_logarithm(exponent: int) -> None:
    """The block of a predecessor of a power of two gets twice the scale that the specification says."""
    amax = float(np.nextafter(np.float32(2.0**exponent), np.float32(0)))
    read("microxcaling", quantize_mx([amax], "fp4_e2m1"), [2.0**exponent])
    ours = quantize_reference(np.array([[amax]], dtype=np.float32), "mxfp4:floor").dequantize()
    assert ours.item() == 0.75 * 2.0**exponent


def test_microxcaling_agrees_otherwise() -> None:
    """Elements and scales by the rule `floor`, over many binades; it has no -0."""
    op = oracle("mx.mx_ops")._quantize_mx
    rng = np.random.default_rng(9)
    x = (rng.standard_normal((2000, 32)) * np.exp2(rng.uniform(-40, 40, (2000, 1)))).astype(np.float32)
    names = {"mxfp8_e4m3": "fp8_e4m3", "mxfp8_e5m2": "fp8_e5m2", "mxfp6_e2m3": "fp6_e2m3", "mxfp6_e3m2": "fp6_e3m2",
             "mxfp4": "fp4_e2m1", "mxint8": "int8"}  # fmt: skip
    for ours, theirs in names.items():
        values = op(torch.from_numpy(x), 8, theirs, axes=[-1], block_size=32, round="even").double().numpy()
        assert np.array_equal(quantize_reference(x, f"{ours}:floor").dequantize(), values), ours


@pytest.mark.slow
def test_qtorch_is_neither_ocp_nor_ieee() -> None:
    """Its (4, 3) keeps the top exponent for numbers (480), has no NaN and no -0, and rounds ties away, half the
    smallest subnormal included; its (5, 2) has no infinity either. Fixed point rounds ties to even."""
    quantizer = oracle("qtorch.quant")
    x = [464.0, 1e6, INF, NAN, 17.0, 1.0625, 2.0**-10, -0.0]
    e4m3 = quantizer.float_quantize(torch.tensor(x), exp=4, man=3, rounding="nearest")
    read("qtorch", e4m3, [480.0, 480.0, 480.0, 480.0, 18.0, 1.125, 2.0**-9, 0.0])
    assert not torch.signbit(e4m3[-1])
    e5m2 = quantizer.float_quantize(torch.tensor([61440.0, INF, NAN]), exp=5, man=2, rounding="nearest")
    read("qtorch", e5m2, [65536.0, 114688.0, 114688.0])
    fixed = quantizer.fixed_point_quantize(torch.tensor([0.03125, 0.09375]), wl=8, fl=4, rounding="nearest")
    read("qtorch", fixed, [0.0, 0.125])
    assert formats.get("e4m3b7").round([464.0, 1e6], "nearest_away").tolist() == [480.0, 480.0]
    assert formats.get("e4m3fn").round(x[4:7]).tolist() == [16.0, 1.0, 0.0]
    assert formats.get("q3.4").round([0.03125, 0.09375]).tolist() == [0.0, 0.125]


def test_torchao_saturates_infinities_of_a_block() -> None:
    """The element is clipped under a finite scale. Our policy is explicit: by default the block becomes NaN."""
    to_mx = oracle("torchao.prototype.mx_formats.mx_tensor").to_mx
    x = np.ones((1, 32), dtype=np.float32)
    x[0, 0] = INF
    scale, codes = to_mx(torch.from_numpy(x), torch.float8_e4m3fn, 32)
    read("torchao", [scale.view(torch.uint8).item(), codes.view(torch.uint8)[0, 0].item()], [247, 0x7E])
    assert quantize_reference(x, "mxfp8:floor").scale.item() == 255


def test_torchao_divides_by_twice_the_smallest_scale() -> None:
    """Its scale code 0 is 2^-127, but the values are divided by 2^-126, so that they read back halved."""
    to_mx = oracle("torchao.prototype.mx_formats.mx_tensor").to_mx
    x = np.full((1, 32), 2.0**-120, dtype=np.float32)
    scale, codes = to_mx(torch.from_numpy(x), torch.float8_e4m3fn, 32)
    value = codes.double()[0, 0].item() * 2.0 ** (scale.view(torch.uint8).item() - 127)
    read("torchao", value, 2.0**-121)
    assert quantize_reference(x, "mxfp8:floor").dequantize()[0, 0] == 2.0**-120
