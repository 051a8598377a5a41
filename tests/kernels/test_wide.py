"""round_values against the numpy definition, bit for bit: every rounder at its thresholds, schemes, shapes, dtypes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge.formats import get, parse, quantize_reference
from narrowgauge.formats.philox import rounding_bits
from narrowgauge.kernels._round_torch import grid_of, rounder
from narrowgauge.kernels.tables import search_table, unordered
from narrowgauge.kernels.wide import round_values

CPU = torch.device("cpu")
HALVES = np.arange(65536, dtype=np.uint16)
EVERY_FP16 = HALVES.view(np.float16).astype(np.float32)
EVERY_BF16 = (HALVES.astype(np.uint32) << 16).view(np.float32)
FORMATS = (
    "fp16", "bf16", "dlfloat16", "e5m6", "e6m9b31in511", "e8m3b127in7", "e7m8b63in255", "tf32", "int16", "int12",
    "int16_full", "uint16", "q8.7", "int9f4", "posit16es1", "posit12es1", "takum16", "posit10es1", "e5m9b15z",
)  # fmt: skip
SCHEMES = (
    "int16", "int12/row", "int16/4x16+sr", "q8.7:static=1.0", "q8.7:static=1.0+sr", "uint16/row", "fp16",
    "fp16/row+ftz", "fp16/row+sr", "bf16:static=1.0+sr", "bf16/1x32:percentile=90", "dlfloat16:static=1.0",
    "dlfloat16/row+sr", "e5m6/32x32:pow2", "e5m6/col", "posit16es1/row", "posit16es1+sr", "takum16:floor", "hbfp12",
    "hbfp12+sr", "dfp16", "msfp16", "bfp12g16", "bfp16g32:ceil+sr", "bfp12g16p2b1", "int12/row:mse",
    "e6m9b31in511/4x24:mse", "tf32/row", "tf32+sr", "e4m3fn/row", "int8/1x16+sr", "mxfp8", "nvfp4", "nf4/1x32",
    "mx9",
)  # fmt: skip


def same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got) & ~np.isnan(got), np.signbit(expected) & ~np.isnan(expected))


def reference(x: np.ndarray, scheme: str, seed: int, offset: int) -> np.ndarray:
    values = quantize_reference(x, scheme, seed, offset).dequantize()
    with np.errstate(over="ignore"):
        return values if x.dtype == np.float64 else values.astype(np.float32)


def check(x: np.ndarray, scheme: str, seed: int = 3, offset: int = 1 << 40 | 5) -> None:
    same_bits(round_values(torch.from_numpy(x), scheme, seed, offset).numpy(), reference(x, scheme, seed, offset))


@lru_cache(maxsize=32)
def hard_values(name: str) -> np.ndarray:
    """Every float16 and bfloat16 number, and the places where the codes of a format change, with their neighbours."""
    fmt = get(name)
    if fmt.bits > 16:
        rng = np.random.default_rng(0)
        bits = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32)
        ties = bits & ~np.uint32(0x1FFF) | np.uint32(0x1000)
        edges = np.concatenate([ties - 1, ties, ties + 1, bits]).view(np.float32)
    else:
        places = search_table(fmt).thresholds.astype(np.int64)
        edges = unordered(np.concatenate([places - 1, places]))
    x = np.concatenate([EVERY_FP16, EVERY_BF16, edges])
    return x[~np.isnan(x)]


@pytest.mark.parametrize("name", FORMATS)
def test_elements_round_as_their_format_says_at_every_step(name: str) -> None:
    fmt, x = get(name), hard_values(name)
    y = torch.from_numpy(x.copy())
    rounder(fmt, False, CPU, stochastic=False)(y, None)
    with np.errstate(over="ignore"):
        same_bits(y.numpy(), fmt.round(x).astype(np.float32))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "takum16"])
def test_elements_round_stochastically_by_the_same_bits(name: str) -> None:
    fmt, x = get(name), hard_values(name)
    bits = rounding_bits(x.shape, 1, 2)
    y = torch.from_numpy(x.copy())
    rounder(fmt, False, CPU, stochastic=True)(y, torch.from_numpy(bits.astype(np.int32)))
    same_bits(y.numpy(), fmt.round(x, "stochastic", random_bits=bits).astype(np.float32))


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("name", ["fp16", "bf16", "e5m6", "tf32"])
def test_subnormal_results_are_flushed_on_demand(name: str, stochastic: bool) -> None:
    fmt, x = get(name), hard_values(name)
    bits = rounding_bits(x.shape, 1, 2) if stochastic else None
    y = torch.from_numpy(x.copy())
    rounder(fmt, True, CPU, stochastic=stochastic)(y, None if bits is None else torch.from_numpy(bits.astype(np.int32)))
    how = "stochastic" if stochastic else None
    same_bits(y.numpy(), fmt.round(x, how, random_bits=bits, subnormals="flush").astype(np.float32))


def test_arithmetic_serves_the_usual_minifloats_and_tables_the_rest() -> None:
    assert all(grid_of(get(name)) for name in ("fp16", "bf16", "dlfloat16", "e5m6", "tf32", "e6m9b31in511"))
    assert not any(grid_of(get(name)) for name in ("posit16es1", "takum16", "e5m9b15z", "fp32", "ue7m1b120"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_values_are_those_of_the_definition(scheme: str) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((37, 50)) * np.exp(3 * rng.standard_normal((37, 50)))).astype(np.float32)
    check(x, scheme)
    check(x.astype(np.float64) * (1 + 2.0**-30), scheme)
    check(np.asfortranarray(x), scheme)
    check(x[:, ::3], scheme)
    check(rng.standard_normal((3, 7, 9)).astype(np.float16), scheme)
    x[3, 5], x[9, 0], x[20, 49] = np.nan, np.inf, -np.inf
    x[12], x[13], x[14], x[15] = 0.0, 3e38, 1e-42, -0.0
    check(x, scheme)
    for shape in ((), (1,), (7,), (0, 8), (8, 0), (1, 131), (127, 1)):
        check(np.asarray(rng.standard_normal(shape), np.float32), scheme)


@pytest.mark.parametrize("scheme", ["int12/3x20+sr", "fp16", "hbfp12", "int16/col", "posit12es1/row", "bfp12gallx8"])
def test_large_tensors_are_rounded_in_blocks_to_the_same_values(scheme: str) -> None:
    check(np.random.default_rng(1).standard_normal((1500, 403)).astype(np.float32), scheme)


@given(
    scheme=st.sampled_from(SCHEMES),
    shape=st.lists(st.integers(0, 40), min_size=0, max_size=3),
    spread=st.floats(0, 30),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    special=st.lists(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 3e38, 65504.0]), max_size=3),
    seed=st.integers(0, 2**63 - 1),
    offset=st.integers(0, 2**63 - 1),
)
def test_any_tensor_is_rounded_as_the_definition_says(scheme, shape, spread, dtype, special, seed, offset) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * np.exp2(spread * rng.uniform(-1, 1, shape))
    with np.errstate(over="ignore"):
        x = np.asarray(values).astype(dtype)
        flat = x.reshape(-1)
        for value in special[: flat.size]:
            flat[rng.integers(flat.size)] = value
    check(flat.reshape(shape), scheme, seed, offset)


def test_bfloat16_tensors_are_taken_and_none_gets_a_gradient() -> None:
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    y = round_values(x, "int12/row")
    assert not y.requires_grad
    same_bits(y.numpy(), reference(x.detach().float().numpy(), "int12/row", 0, 0))


def test_layout_follows_the_input() -> None:
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    assert round_values(x, "fp16/row").is_contiguous()
    assert round_values(x.t(), "fp16/row").t().is_contiguous()
    torch.library.opcheck(torch.ops.narrowgauge.round_values.default, (x.t(), "hbfp12+sr", 1, 2))


@pytest.mark.parametrize("scheme", ["fp16/row", "int16+sr", "e4m3fn/row"])
def test_compilers_keep_one_call(scheme: str) -> None:
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(lambda x: round_values(2 * x, scheme, 1, 2) + 1, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), round_values(2 * x, scheme, 1, 2) + 1)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", SCHEMES)
def test_devices_agree(scheme: str, device: torch.device) -> None:
    x = torch.randn(130, 200, generator=torch.Generator().manual_seed(0)) * 1e-3
    same_bits(round_values(x.to(device), scheme, 1, 2).cpu().numpy(), round_values(x, scheme, 1, 2).numpy())


def test_what_is_not_served_is_refused_by_name() -> None:
    x = torch.zeros(4, 4)
    for scheme in ("fp32", "int24/row"):
        with pytest.raises(ValueError, match=r"scheme: .* has elements of \d+ bits, accepted: at most 16 bits"):
            round_values(x, scheme)
    with pytest.raises(ValueError, match="takum16 has a stochastic rounding of its own or levels beyond float32"):
        round_values(x, "takum16+sr")
    with pytest.raises(TypeError, match="x: expected dtype float32"):
        round_values(torch.zeros(4, dtype=torch.int64), "fp16")
    with pytest.raises(TypeError, match="scheme: expected a string or a Scheme"):
        round_values(x, 3)  # type: ignore[arg-type]


def test_a_scheme_may_be_given_as_such() -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(round_values(x, parse("int12/row")), round_values(x, "int12/row"))
