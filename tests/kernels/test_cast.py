"""Encode and decode of single values: torch and Triton against the formats' own definition, exhaustively."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from narrowgauge import formats
from narrowgauge.formats.quantizer import _encode
from narrowgauge.kernels import _cast, _cast_torch, _tables_torch
from narrowgauge.kernels._quantize_torch import NATIVE_CASTS, round_to_odd
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.layout import blob_for, layout_for, layout_of
from narrowgauge.kernels.tables import search_table

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
    if served(fmt) and not (isinstance(fmt, formats.FloatFormat) and not fmt.has_zero)
}


def rounds_stochastically(fmt: formats.Format) -> bool:
    return layout_of(fmt).kind != "table" or search_table(fmt).mirrored is not None


@jit
def _roundtrip_kernel(x_ptr, codes_ptr, values_ptr, table_ptr, n, seed, offset, F: tl.constexpr,
                      STOCHASTIC: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + index, mask=index < n, other=0.0)
    random = 0
    if STOCHASTIC:
        random = _cast.rounding_bits(seed, offset, index)
    codes = _cast.encode(x, random, table_ptr, F, STOCHASTIC)
    tl.store(codes_ptr + index, codes.to(codes_ptr.dtype.element_ty), mask=index < n)
    tl.store(values_ptr + index, _cast.decode(codes, table_ptr, F), mask=index < n)


def float32(x: NDArray[np.float64]) -> NDArray[np.float32]:
    """As kernels decode: infinite beyond float32, which takum8 is."""
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def torch_codes(x: torch.Tensor, fmt: formats.Format, random: torch.Tensor | None) -> NDArray[np.integer]:
    """By bit arithmetic, or by table where that is all there is."""
    layout = layout_of(fmt)
    if layout.kind == "table":
        return _tables_torch.encode_any(x.clone(), fmt, False, random, may_have_nan=True).numpy()
    return _cast_torch.encode(x.clone(), layout, random).numpy()


def hard_inputs(fmt: formats.Format) -> NDArray[np.float32]:
    """All 65,536 float16 values, every value and midpoint of the format with its float32 neighbours, a wide sample."""
    half = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    levels = np.unique(fmt.values()[np.isfinite(fmt.values())])
    with np.errstate(over="ignore"):  # takum8 reaches beyond float32
        edges = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2]).astype(np.float32)
    rng = np.random.default_rng(0)
    wide = (rng.standard_normal(20000) * np.exp(rng.uniform(-40, 12, 20000))).astype(np.float32)
    limits = np.float32([3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.2e-38])
    up, down = np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))
    return np.concatenate([half, edges, up, down, wide, limits])


@pytest.mark.parametrize(
    ("name", "stochastic"),
    [(name, way) for name, fmt in ELEMENTS.items() for way in (False, True) if not way or rounds_stochastically(fmt)],
)
def test_torch_and_triton_encode_as_the_definition(name: str, stochastic: bool, device: torch.device) -> None:
    fmt = ELEMENTS[name]
    scheme = formats.Scheme(fmt, stochastic=stochastic)
    layout = layout_for(scheme)
    x = hard_inputs(fmt)
    with np.errstate(invalid="ignore"):
        expected = _encode(x, scheme, SEED, OFFSET)
    tensor = torch.from_numpy(x)
    random = _cast_torch.rounding_bits(tensor.shape, SEED, OFFSET, tensor.device) if stochastic else None
    np.testing.assert_array_equal(torch_codes(tensor, fmt, random), expected)
    codes = torch.empty(x.size, dtype=layout.code_dtype, device=device)
    values = torch.empty(x.size, device=device)
    block = 1 << 17
    _roundtrip_kernel[(-(-x.size // block),)](
        tensor.to(device), codes, values, blob_for(scheme, device), x.size, SEED, OFFSET, layout, stochastic, block
    )
    np.testing.assert_array_equal(codes.cpu().numpy(), expected)
    np.testing.assert_array_equal(values.cpu().numpy(), float32(fmt.decode(expected)))


@pytest.mark.parametrize("name", ELEMENTS)
def test_torch_decodes_every_code_in_any_layout(name: str) -> None:
    fmt = ELEMENTS[name]
    codes = torch.from_numpy(np.tile(fmt.all_codes(), 4))
    finite = codes[torch.from_numpy(np.isfinite(np.tile(fmt.values(), 4)))]
    for arranged in (codes, finite, codes.view(2, -1), codes.view(2, -1).t(), codes.view(4, -1)[::2]):
        actual, expected = _tables_torch.decode(arranged, fmt).numpy(), fmt.decode(arranged.numpy())
        np.testing.assert_array_equal(actual, float32(expected))
        np.testing.assert_array_equal(np.signbit(actual), np.signbit(expected))


@pytest.mark.parametrize("name", ELEMENTS)
def test_encode_tables_equal_the_definition(name: str) -> None:
    x = hard_inputs(ELEMENTS[name])
    x = x[~np.isnan(x)]
    codes = _tables_torch.encode_by_table(torch.from_numpy(x.copy()), ELEMENTS[name])
    np.testing.assert_array_equal(codes.numpy(), ELEMENTS[name].encode(x))


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


@pytest.mark.parametrize("start", [0, 1, 6, 4000])
def test_rounding_bits_may_start_at_any_element(start: int) -> None:
    from narrowgauge.formats.philox import rounding_bits

    cpu, memory = torch.device("cpu"), torch.empty((25, 2), dtype=torch.int64)
    expected = rounding_bits((start + 91,), SEED, OFFSET)[start:].reshape(7, 13)
    for given in (None, memory):
        ours = _cast_torch.rounding_bits((7, 13), SEED, OFFSET, cpu, start, given)
        np.testing.assert_array_equal(ours.numpy(), expected)


@pytest.mark.parametrize("start", [0, 3, (1 << 34) - 50, 1 << 35])
def test_rounding_bits_in_plain_torch_are_those_that_numpy_draws(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    expected = _cast_torch.rounding_bits((7, 13), SEED, OFFSET, cpu, start)
    monkeypatch.setattr(_cast_torch, "_is_eager", lambda x: False)
    assert torch.equal(_cast_torch.rounding_bits((7, 13), SEED, OFFSET, cpu, start), expected)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(_cast_torch.rounding_bits((7, 13), SEED, OFFSET, cpu, start), expected)


def test_round_to_odd_equals_the_definition() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal(20000) * np.exp2(rng.uniform(-160, 140, 20000))
    x[:6] = [np.inf, -np.inf, 0.0, -0.0, 1 + 2**-40, 1e300]
    np.testing.assert_array_equal(round_to_odd(torch.from_numpy(x)).numpy(), formats.round_to_odd_float32(x))


def test_bit_arithmetic_serves_only_what_float32_arithmetic_reaches() -> None:
    kinds = {name: layout_of(fmt).kind for name, fmt in ELEMENTS.items()}
    assert {kinds[name] for name in ("e4m3fn", "binary8p1se", "e2m1fn", "ue4m3fn")} == {"float"}
    assert kinds["rf8"] == "rf8"
    assert kinds["int4"] == "int"
    assert {kinds[name] for name in ("nf4", "dynamic8", "posit8es2", "hif8", "lns8g8")} == {"table"}
    # Too far from 1 for one product with a power of two.
    assert layout_of(formats.FloatFormat(exponent_bits=4, mantissa_bits=3, bias=-20)).kind == "table"
    assert layout_of(formats.FloatFormat(exponent_bits=4, mantissa_bits=3, bias=130)).kind == "table"


def test_layout_refuses_formats_without_a_kernel_and_says_why() -> None:
    with pytest.raises(ValueError, match="at most 8 bits, fp16 has 16"):
        layout_of(formats.get("fp16"))
    wide = formats.CodebookFormat(name="wide", table=(0.0, 0.1, 1.0))
    with pytest.raises(ValueError, match=r"wide holds 0.1, which is no float32 number.*from_values"):
        layout_of(wide)
