"""Encode and decode of single values: torch and Triton against the formats' own definition, exhaustively."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from narrowgauge import formats
from narrowgauge.formats.quantizer import _encode
from narrowgauge.kernels import _cast, _cast_torch, _tables_torch
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.quantize import NATIVE_CASTS, round_to_odd

SEED, OFFSET = 12345678901234, 7 << 33 | 5


def served(fmt: formats.Format) -> bool:
    try:
        layout_of(fmt)
    except ValueError:
        return False
    return True


ELEMENTS = {
    fmt.name: fmt
    for fmt in (getattr(formats.get(name), "element", formats.get(name)) for name in formats.names())
    if served(fmt)
}


@jit
def _roundtrip_kernel(x_ptr, codes_ptr, values_ptr, n, seed, offset, F: tl.constexpr, STOCHASTIC: tl.constexpr,
                      BLOCK: tl.constexpr):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + index, mask=index < n, other=0.0)
    random = 0
    if STOCHASTIC:
        random = _cast.rounding_bits(seed, offset, index)
    codes = _cast.encode(x, random, F, STOCHASTIC)
    tl.store(codes_ptr + index, codes.to(codes_ptr.dtype.element_ty), mask=index < n)
    tl.store(values_ptr + index, _cast.decode(codes, F), mask=index < n)


def hard_inputs(fmt: formats.Format) -> NDArray[np.float32]:
    """All 65,536 float16 values, every value and midpoint of the format with its float32 neighbours, a wide sample."""
    half = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    levels = np.unique(fmt.values()[np.isfinite(fmt.values())])
    edges = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2]).astype(np.float32)
    rng = np.random.default_rng(0)
    wide = (rng.standard_normal(20000) * np.exp(rng.uniform(-40, 12, 20000))).astype(np.float32)
    limits = np.float32([3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.2e-38])
    up, down = np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))
    return np.concatenate([half, edges, up, down, wide, limits])


@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("name", ELEMENTS)
def test_torch_and_triton_encode_as_the_definition(name: str, stochastic: bool, device: torch.device) -> None:
    fmt = ELEMENTS[name]
    layout = layout_of(fmt)
    x = hard_inputs(fmt)
    with np.errstate(invalid="ignore"):
        expected = _encode(x, formats.Scheme(fmt, stochastic=stochastic), SEED, OFFSET)
    tensor = torch.from_numpy(x)
    random = _cast_torch.rounding_bits(tensor.shape, SEED, OFFSET, tensor.device) if stochastic else None
    np.testing.assert_array_equal(_cast_torch.encode(tensor.clone(), layout, random).numpy(), expected)
    codes = torch.empty(x.size, dtype=layout.code_dtype, device=device)
    values = torch.empty(x.size, device=device)
    block = 1 << 17
    _roundtrip_kernel[(-(-x.size // block),)](
        tensor.to(device), codes, values, x.size, SEED, OFFSET, layout, stochastic, block
    )
    np.testing.assert_array_equal(codes.cpu().numpy(), expected)
    np.testing.assert_array_equal(values.cpu().numpy(), fmt.decode(expected).astype(np.float32))


@pytest.mark.parametrize("name", ELEMENTS)
def test_torch_decodes_every_code_in_any_layout(name: str) -> None:
    fmt = ELEMENTS[name]
    codes = torch.from_numpy(fmt.all_codes())
    finite = codes[torch.from_numpy(np.isfinite(fmt.values()))]
    for arranged in (codes, finite, codes.view(2, -1), codes.view(2, -1).t(), codes.view(4, -1)[::2]):
        actual, expected = _tables_torch.decode(arranged, fmt).numpy(), fmt.decode(arranged.numpy())
        np.testing.assert_array_equal(actual, expected.astype(np.float32))
        np.testing.assert_array_equal(np.signbit(actual), np.signbit(expected))


@pytest.mark.parametrize("name", [name for name, fmt in ELEMENTS.items() if layout_of(fmt).kind != "int"])
def test_encode_tables_equal_the_definition(name: str) -> None:
    x = hard_inputs(ELEMENTS[name])
    x = x[~np.isnan(x)]
    codes = _tables_torch.encode_by_table(torch.from_numpy(x.copy()), ELEMENTS[name])
    np.testing.assert_array_equal(codes.numpy(), ELEMENTS[name].encode(x))


def test_encode_table_refuses_values_that_share_a_bucket() -> None:
    dense = formats.CodebookFormat(name="dense", table=(1.0, 1.0 + 2**-12, 1.0 + 2**-11, 2.0))
    with pytest.raises(ValueError, match="too close together"):
        _tables_torch.encode_table(dense)


@pytest.mark.parametrize("name", NATIVE_CASTS)
def test_native_cast_of_clamped_values_equals_ours(name: str) -> None:
    fmt = formats.get(name)
    x = hard_inputs(fmt)
    x = x[np.isfinite(x)]
    native = torch.from_numpy(x).clamp(-fmt.max, fmt.max).to(NATIVE_CASTS[name]).view(torch.uint8)
    np.testing.assert_array_equal(native.numpy(), fmt.encode(x))


def test_rounding_bits_are_those_of_the_definition() -> None:
    from narrowgauge.formats.philox import rounding_bits

    ours = _cast_torch.rounding_bits((7, 13), SEED, OFFSET, torch.device("cpu")).numpy()
    np.testing.assert_array_equal(ours, rounding_bits((7, 13), SEED, OFFSET))


def test_round_to_odd_equals_the_definition() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(20000) * np.exp2(rng.uniform(-160, 140, 20000))
    x[:6] = [np.inf, -np.inf, 0.0, -0.0, 1 + 2**-40, 1e300]
    np.testing.assert_array_equal(round_to_odd(torch.from_numpy(x)).numpy(), formats.round_to_odd_float32(x))


def test_layout_refuses_formats_without_a_kernel_and_says_why() -> None:
    with pytest.raises(ValueError, match="at most 8 bits, fp16 has 16"):
        layout_of(formats.get("fp16"))
    with pytest.raises(ValueError, match="no kernel serves the codebook 'nf4'"):
        layout_of(formats.get("nf4"))
