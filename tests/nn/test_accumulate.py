"""Narrow accumulators against sums made one by one in numpy, against float64 within the bound, and what chunks do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from narrowgauge.formats import FloatFormat, get
from narrowgauge.nn.accumulate import Accumulator, accumulate, parse_accumulator

TEXTS = (
    "dlfloat16", "dlfloat16/64", "dlfloat16/64+exact", "dlfloat16/64+sr", "dlfloat16/64+exact+sr", "fp16", "fp16+sr",
    "fp16/32", "bf16/128", "bf16/128+outer=fp32", "bf16/16+sr+outer=fp32", "bf16+exact", "e5m6/32", "tf32/64",
    "e4m3fn/8", "fp32", "fp32/128", "hopper", "hopper/128", "fp16/64+exact+outer=bf16",
)  # fmt: skip


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def rounded(x: np.ndarray, fmt: FloatFormat) -> np.ndarray:
    with np.errstate(over="ignore"):
        return fmt.round(x, overflow="nonsaturating").astype(np.float32)


def one_by_one(a: np.ndarray, b: np.ndarray, name: str, chunk: int | None, wide: type = np.float32) -> np.ndarray:
    """The sums as the module says, each rounded by the format itself; wide: of the sum before it is rounded."""
    fmt, k = get(name), a.shape[1]
    chunk = min(chunk or k, k)
    total = np.zeros((len(a), len(b)), np.float32)
    for start in range(0, k, chunk):
        part = np.zeros_like(total)
        for i in range(start, min(start + chunk, k)):
            with np.errstate(over="ignore", invalid="ignore"):
                part = rounded(part.astype(wide) + np.multiply.outer(a[:, i], b[:, i]).astype(wide), fmt)
        with np.errstate(over="ignore", invalid="ignore"):
            total = rounded(total.astype(wide) + part.astype(wide), fmt)
    return total


@pytest.mark.parametrize("name", ["dlfloat16", "fp16", "bf16", "e5m6", "tf32", "e4m3fn"])
@pytest.mark.parametrize("chunk", [None, 7, 16])
def test_every_sum_is_rounded_as_its_format_says(name: str, chunk: int | None) -> None:
    a, b = normal(9, 50) * 2.0 ** -normal(9, 50).abs(), normal(5, 50, seed=1)
    text = name if chunk is None else f"{name}/{chunk}"
    np.testing.assert_array_equal(accumulate(a, b, text).numpy(), one_by_one(a.numpy(), b.numpy(), name, chunk))


@pytest.mark.parametrize("name", ["dlfloat16", "fp16", "bf16"])
@pytest.mark.parametrize("element", ["e4m3fn", "e5m2", "e3m4"])
def test_sums_of_8_bit_floats_are_rounded_only_once(name: str, element: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (get(element).round(rng.standard_normal((8, 200)) * 2.0 ** rng.integers(-6, 6, (8, 200))) for _ in range(2))
    got = accumulate(torch.from_numpy(a).float(), torch.from_numpy(b).float(), f"{name}/64")
    np.testing.assert_array_equal(got.numpy(), one_by_one(a, b, name, 64, np.float64))


@pytest.mark.parametrize("scale", [2.0**-16, 2.0**-20, 2.0**-24])
@pytest.mark.parametrize("name", ["dlfloat16", "fp16", "e5m6"])
def test_sums_underflow_as_their_format_does(name: str, scale: float) -> None:
    a, b = normal(9, 40) * scale, normal(5, 40, seed=1) * 2.0**-8
    np.testing.assert_array_equal(accumulate(a, b, name).numpy(), one_by_one(a.numpy(), b.numpy(), name, None))


@pytest.mark.parametrize(("name", "scale"), [("fp16", 100.0), ("dlfloat16", 4e4), ("e5m6", 100.0), ("e4m3fn", 8.0)])
def test_overflow_is_an_infinity_or_nan(name: str, scale: float) -> None:
    a, b = normal(9, 40) * scale, normal(5, 40, seed=1) * scale
    expected = one_by_one(a.numpy(), b.numpy(), name, 8)
    assert 0 < np.isfinite(expected).sum() < expected.size
    np.testing.assert_array_equal(accumulate(a, b, f"{name}/8").numpy(), expected)
    stochastic = accumulate(a, b, f"{name}/8+sr").numpy()
    assert 0 < np.isfinite(stochastic).sum() < stochastic.size
    assert np.isnan(stochastic).any() or get(name).has_inf
    assert np.isinf(stochastic).any() == get(name).has_inf


@pytest.mark.parametrize("text", TEXTS)
def test_nan_and_infinity_come_through(text: str) -> None:
    a, b = normal(4, 200), normal(3, 200, seed=1)
    a[1, 100], a[2, 3] = math.nan, math.inf
    result = accumulate(a, b, text)
    assert torch.isfinite(result[[0, 3]]).all()
    assert torch.isnan(result[1]).all()
    assert not torch.isfinite(result[2]).any()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [normal, uniform])
def test_errors_stay_within_the_bound(text: str, make) -> None:  # type: ignore[no-untyped-def]
    a, b = make(12, 700, seed=2) * 0.3, make(10, 700, seed=3)
    if text.startswith("e4m3fn"):
        a = a * 2.0**-4
    spec = parse_accumulator(text)
    error = (accumulate(a, b, spec, seed=1).double() - a.double() @ b.double().t()).abs()
    magnitude = a.double().abs() @ b.double().abs().t()
    limit = spec.error_bound(700) * magnitude + spec.underflow_bound(700)
    assert (error <= limit).all()
    assert (error > 0).any()


@pytest.mark.parametrize("name", ["fp16", "bf16", "dlfloat16"])
def test_chunks_keep_long_sums_from_stagnating(name: str) -> None:
    a, b = uniform(8, 4096), uniform(8, 4096, seed=1)
    exact = a.double() @ b.double().t()
    unit = parse_accumulator(name).unit_roundoff

    def error(text: str) -> float:
        return float(((accumulate(a, b, text).double() - exact).abs() / exact).max()) / unit

    # sqrt(4096) roundings would be 64 units; sums that no longer grow are further off.
    assert error(name) > 64
    assert error(f"{name}/64") < 10
    assert error(f"{name}/64+exact") < 8
    # Stochastic sums do not stagnate.
    assert abs(float((accumulate(a, b, f"{name}+sr").double() / exact - 1).mean())) / unit < 10


def test_a_sum_stops_growing_where_its_terms_are_half_a_unit() -> None:
    ones = torch.ones(1, 4096)
    assert accumulate(ones, ones, "fp16").item() == 2048
    assert accumulate(ones, ones, "bf16").item() == 256
    assert accumulate(ones, ones, "dlfloat16").item() == 1024
    assert accumulate(ones, ones, "dlfloat16/64").item() == 4096


@pytest.mark.parametrize(("k", "low", "high"), [(512, 0.002, 0.01), (4096, 0.05, 0.09), (16384, 0.2, 0.3)])
def test_hopper_loses_as_much_as_its_14_bits_say_and_promotion_ends_that(k: int, low: float, high: float) -> None:
    a, b = (uniform(4, k, seed=seed).to(torch.float8_e4m3fn).float() for seed in (0, 1))
    exact = a.double() @ b.double().t()

    def error(text: str) -> float:
        return float(((accumulate(a, b, text).double() - exact).abs() / exact).mean())

    assert low < error("hopper") < high
    assert error("hopper/128") < 0.001


def test_hopper_aligns_products_and_sum_and_cuts_them() -> None:
    a = torch.zeros(1, 64)
    a[0, 0], a[0, 1], a[0, 2] = 1.0, 2.0**-13, 2.0**-14
    a[0, 32], a[0, 33] = 2.0**-13 * 1.75, -(2.0**-14)
    assert accumulate(a, torch.ones(1, 64), "hopper").item() == 1.0 + 2.0**-13 + 2.0**-13
    assert accumulate(a, torch.ones(1, 64), "hopper/32").item() == 1.0 + 2.0**-13 + 2.0**-13 * 1.75 - 2.0**-14
    tiny = accumulate(a * 2.0**-100, torch.ones(1, 64) * 2.0**-20, "hopper").item()
    assert tiny == pytest.approx(2.0**-120, rel=2.0**-4)


def test_int32_wraps_and_chunks_move_to_float32() -> None:
    a = torch.full((1, 4), 32767.0)
    b = torch.full((1, 4), 32767.0)
    exact = 4 * 32767**2
    assert accumulate(a, b, "int32").item() == np.float32((exact + 2**31) % 2**32 - 2**31)
    assert accumulate(a, b, "int32/2").item() == np.float32(exact)
    codes = torch.randint(-127, 128, (6, 1000), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(accumulate(codes, codes, "int32").double(), codes.double() @ codes.double().t())
    assert parse_accumulator("int32").error_bound(1000) <= 2.0**-23


def test_stochastic_sums_are_unbiased_and_repeat_by_seed() -> None:
    a, b = uniform(1, 64), uniform(1, 64, seed=1)
    exact = (a.double() @ b.double().t()).item()
    draws = accumulate(a.expand(5000, 64), b, "e5m6/16+sr", seed=1).double()
    assert abs(draws.mean() - exact).item() < 5 * draws.std().item() / math.sqrt(5000)
    assert draws.std() > 0
    same = accumulate(a, b, "e5m6/16+sr", seed=7, offset=1 << 40)
    assert torch.equal(same, accumulate(a, b, "e5m6/16+sr", seed=7, offset=1 << 40))
    others = [accumulate(a, b, "bf16+sr", seed=7, offset=offset).item() for offset in range(50)]
    assert len(set(others)) > 2


@pytest.mark.parametrize("text", [text for text in TEXTS if "exact" not in text and text[:4] != "fp32"])
def test_blocks_do_not_show_in_the_result(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(30, 300), normal(21, 300, seed=1)
    expected = accumulate(a, b, text, seed=3)
    monkeypatch.setattr("narrowgauge.kernels.narrow_sums.BLOCK", 100)
    monkeypatch.setattr("narrowgauge.nn.accumulate.SUMS_AT_ONCE", 500)
    assert torch.equal(accumulate(a, b, text, seed=3), expected)


@given(
    name=st.sampled_from(["dlfloat16", "fp16", "bf16", "e5m6", "e5m2"]),
    shape=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 40)),
    chunk=st.one_of(st.none(), st.integers(1, 50)),
    spread=st.floats(0, 20),
    seed=st.integers(0, 2**32),
)
def test_any_operands_give_the_sums_made_one_by_one(name, shape, chunk, spread, seed) -> None:
    m, n, k = shape
    rng = np.random.default_rng(seed)
    a, b = (
        (rng.standard_normal((rows, k)) * np.exp2(spread * rng.uniform(-1, 1, (rows, k)))).astype(np.float32)
        for rows in (m, n)
    )
    text = name if chunk is None else f"{name}/{chunk}"
    got = accumulate(torch.from_numpy(a), torch.from_numpy(b), text)
    expected = one_by_one(a, b, name, chunk) if k else np.zeros((m, n), np.float32)
    np.testing.assert_array_equal(got.numpy(), expected)


def test_strides_and_gradients_do_not_matter() -> None:
    a, b = normal(50, 9).t(), normal(5, 100, seed=1)[:, ::2].requires_grad_()
    result = accumulate(a, b, "bf16/8")
    assert not result.requires_grad
    assert torch.equal(result, accumulate(a.contiguous(), b.contiguous(), "bf16/8"))
    torch.library.opcheck(torch.ops.narrowgauge.accumulate.default, (a, b.detach(), "bf16/8", 0, 0))


@pytest.mark.parametrize("text", ["dlfloat16/64", "fp16+sr", "hopper/32"])
def test_compilers_keep_one_call(text: str) -> None:
    a, b = normal(4, 100), normal(3, 100, seed=1)
    compiled = torch.compile(lambda a, b: accumulate(2 * a, b, text, 1, 2) + 1, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(a, b), accumulate(2 * a, b, text, 1, 2) + 1)


@pytest.mark.parametrize("text", [*TEXTS, "int32", "int32/2"])
def test_texts_read_back(text: str) -> None:
    spec = parse_accumulator(text)
    assert str(spec) == text
    assert parse_accumulator(str(spec)) == spec
    assert parse_accumulator(spec) is spec


def test_the_unit_roundoff_is_that_of_the_coarsest_rounding() -> None:
    expected = {"fp16": -11, "fp16/64+exact": -11, "bf16/64+outer=fp32": -8, "fp16/64+outer=bf16": -8, "fp16+sr": -10}
    for text, exponent in {**expected, "hopper": -13, "fp32/128": -24}.items():
        assert parse_accumulator(text).unit_roundoff == pytest.approx(2.0**exponent, rel=0.01)
    assert parse_accumulator("int32").unit_roundoff == 0


def test_names_are_canonical() -> None:
    assert parse_accumulator("half/32+sr+exact") == Accumulator(name="fp16", chunk=32, exact=True, stochastic=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int8", "accumulator: int8 is none, accepted: fp32, hopper, int32 and signed minifloats"),
        ("e4m3fnuz", "accumulator: e4m3fnuz is none"),
        ("dlfloat16/0", "chunk: got 0, accepted: a number of products >= 1"),
        ("fp16/x", r"accumulator: 'fp16/x' is not 'format\[/chunk\]"),
        ("fp16+round", "accumulator: unknown option 'round' in 'fp16\\+round'; accepted: exact, sr, outer=format"),
        ("fp16+sr+sr", "accumulator: unknown option 'sr'"),
        ("hopper+sr", "accumulator: hopper takes a chunk and no options"),
        ("fp32/64+exact", "accumulator: fp32 takes a chunk and no options"),
        ("fp16+outer=fp32", "outer: there are no chunks to add in 'fp16\\+outer=fp32'"),
        ("fp61", "unknown name 'fp61'; nearest: "),
    ],
)
def test_texts_without_a_meaning_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_accumulator(text)


def test_operands_that_do_not_fit_are_refused() -> None:
    a = torch.zeros(2, 3)
    with pytest.raises(TypeError, match="a: expected dtype float32, got float64"):
        accumulate(a.double(), a, "fp16")
    with pytest.raises(ValueError, match=r"a, b: expected \[M, K\] and \[N, K\], got \(2, 3\) and \(2, 4\)"):
        accumulate(a, torch.zeros(2, 4), "fp16")
    with pytest.raises(ValueError, match="a: an int32 accumulator takes integers"):
        accumulate(a + 0.5, a, "int32")
    with pytest.raises(ValueError, match="b: an int32 accumulator takes integers"):
        accumulate(a, a + torch.inf, "int32")
    with pytest.raises(ValueError, match=r"a, b: integers whose sum of products may pass 2\^53"):
        accumulate(a + 2.0**30, a + 2.0**30, "int32")
    with pytest.raises(TypeError, match="accumulator: expected a string or an Accumulator, got int"):
        accumulate(a, a, 32)  # type: ignore[arg-type]
