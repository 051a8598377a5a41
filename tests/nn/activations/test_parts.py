"""Compressed tensors come back as the quantiser's values, in the bytes that the format promises."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.kernels import quantize
from narrowgauge.nn.activations.parts import check_scheme, compress, restore

SCHEMES = ("int8/1x128", "e4m3fn/1x16", "e4m3fn", "mxfp8", "int4/1x32", "mxfp6_e3m2", "mxfp4", "nvfp4", "int8/row")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(6, 160), (2, 3, 37), (5,), (0, 8), ()])
def test_restore_gives_the_values_of_the_quantiser(scheme: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    actual = restore(compress(x, scheme), scheme, x.shape, x.dtype)
    assert torch.equal(actual, quantize(x, scheme).dequantize())


@pytest.mark.parametrize(("scheme", "bits"), [("int8/1x128", 8), ("mxfp6_e3m2", 6), ("int4/1x32", 4), ("mxfp4", 4)])
def test_codes_take_their_bits(scheme: str, bits: int) -> None:
    codes, _, _ = compress(torch.randn(32, 256), scheme)
    assert codes.nbytes == 32 * 256 * bits // 8


def test_transposed_input_is_compressed_row_by_row() -> None:
    x = torch.randn(40, 24).t()
    assert torch.equal(
        restore(compress(x, "int8/1x16"), "int8/1x16", x.shape, x.dtype).t(),
        quantize(x.contiguous(), "int8/1x16").dequantize().t(),
    )


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("int8/1x128+sr", "accepted: schemes that round to nearest"),
        ("int16/row", "of 16 bits, accepted: formats of at most 8 bits"),
        ("int8", "several tokens share a scale; accepted: .*'int8/1x128'"),
        ("int8/4x4", "several tokens share a scale"),
        ("e4m3fn/col", "several tokens share a scale"),
    ],
)
def test_schemes_that_cannot_serve_are_refused(scheme: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"nonlinear: got .*{message}"):
        check_scheme(scheme, "nonlinear", own_rows=True)


def test_check_gives_the_canonical_text() -> None:
    assert check_scheme("int8/1x128:amax", own_rows=True) == "int8/1x128"
    assert check_scheme("e4m3fn") == "e4m3fn"
