"""Packing of tensors against the definition in numpy, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import narrowgauge as ng
from narrowgauge import formats
from narrowgauge.kernels import packing

SHAPES = [(0,), (1,), (7,), (8,), (129,), (3, 5), (2, 0), (2, 3, 17), (4, 64)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [False, True])
def test_bytes_are_those_of_the_definition(
    shape: tuple[int, ...], bits: int, signed: bool, device: torch.device
) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    codes = np.random.default_rng(bits).integers(low, high, shape).astype(np.int8 if signed else np.uint8)
    packed = packing.pack(torch.from_numpy(codes).to(device), bits)
    np.testing.assert_array_equal(packed.cpu().numpy(), formats.pack(codes, bits))
    again = packing.unpack(packed, bits, shape[-1], signed)
    assert again.dtype == (torch.int8 if signed else torch.uint8)
    np.testing.assert_array_equal(again.cpu().numpy(), codes)


def test_strided_codes_are_packed_in_their_order() -> None:
    codes = torch.arange(96, dtype=torch.uint8).reshape(6, 16) % 16
    np.testing.assert_array_equal(packing.pack(codes.t(), 4).numpy(), formats.pack(codes.t().numpy(), 4))


@pytest.mark.parametrize("scheme", ["nf4/1x64", "mxfp4", "mxfp6_e2m3", "int4/row", "int2/row", "binary/row"])
def test_quantised_tensors_take_the_bits_of_their_format(scheme: str) -> None:
    q = ng.quantize(torch.randn(9, 130, generator=torch.Generator().manual_seed(0)), scheme)
    element = q.scheme.element
    packed = packing.pack(q.codes, element.bits)
    assert packed.shape == (9, formats.packed_nbytes(130, element.bits))
    assert torch.equal(packing.unpack(packed, element.bits, 130, q.codes.dtype is torch.int8), q.codes)


def test_mistakes_are_said() -> None:
    codes = torch.zeros(4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^bits: got 9, accepted: 1 to 8"):
        packing.pack(codes, 9)
    with pytest.raises(TypeError, match=r"^codes: got dtype float32, accepted: uint8, int8"):
        packing.pack(codes.float(), 4)
    with pytest.raises(ValueError, match=r"^codes: got values in \[0, 16\], accepted: numbers of 4 bits"):
        packing.pack(torch.tensor([0, 16], dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match=r"^packed: got 4 bytes in a row, accepted for 3 codes of 4 bits: 2"):
        packing.unpack(codes, 4, 3)
    with pytest.raises(ValueError, match=r"^codes: got a scalar"):
        packing.pack(codes[0], 4)
