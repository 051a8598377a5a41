"""Search tables: thresholds against the formats' own encode, the blob, the cuts of the CPU, the stochastic rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge.formats import CodebookFormat, FloatFormat, IntFormat, Rounding, Scheme, get, quantize_reference
from narrowgauge.formats.format import Format
from narrowgauge.kernels import _cast_torch, _tables_torch, quantize
from narrowgauge.kernels.layout import layout_for, layout_of
from narrowgauge.kernels.tables import CODES, LEVELS, VALUES, ordered, search_table, table_blob, unordered

NAMES = ("e4m3fn", "rf8", "nf4", "dynamic8", "posit8es0", "hif8", "lns8g8", "int4_full", "e8m0fnu", "ue4m3fn")
CPU = torch.device("cpu")


def around(x: np.ndarray) -> np.ndarray:
    """x and its float32 neighbours."""
    return np.concatenate([np.nextafter(x, np.float32(-np.inf)), x, np.nextafter(x, np.float32(np.inf))])


def test_ordered_patterns_ascend_with_the_values_and_read_back() -> None:
    x = np.asarray([-np.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, np.inf], np.float32)
    assert (np.diff(ordered(x).astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(unordered(ordered(x)).view(np.int32), x.view(np.int32))


@pytest.mark.parametrize("rounding", [None, Rounding.UP])
@pytest.mark.parametrize("name", NAMES)
def test_code_is_found_by_counting_thresholds(name: str, rounding: Rounding | None) -> None:
    table = search_table(get(name), False, rounding)
    x = around(unordered(table.thresholds))
    rank = np.searchsorted(table.thresholds, ordered(x), side="right")
    np.testing.assert_array_equal(table.codes[rank], get(name).encode(x, rounding))


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2", "e3m4", "e4m3fnuz", "e2m1fn"])
def test_flushing_tables_have_no_subnormal_codes(name: str) -> None:
    fmt = get(name)
    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * np.float32(fmt.smallest_normal)
    codes = _tables_torch.encode_by_table(torch.from_numpy(x.copy()), fmt, True).numpy()
    np.testing.assert_array_equal(codes, fmt.encode(x, subnormals="flush"))
    assert not ((np.abs(fmt.decode(codes)) > 0) & (np.abs(fmt.decode(codes)) < fmt.smallest_normal)).any()


def test_blob_holds_the_sections_where_kernels_look_for_them() -> None:
    fmt, blob = get("nf4"), table_blob(get("nf4"), CPU)
    assert blob.shape == (5 * 256,)
    assert blob[15:256].eq(0x7FFFFFFF).all()
    assert blob[CODES : CODES + 16].tolist() == list(range(16))
    np.testing.assert_array_equal(blob[VALUES : VALUES + 16].view(torch.float32).double().numpy(), fmt.values())
    assert (blob[LEVELS : LEVELS + 16].diff() > 0).all()
    assert table_blob(fmt, CPU) is blob


@pytest.mark.parametrize(("step", "cut"), [(2.0**-6, 16), (2.0**-10, 12), (2.0**-16, 0)])
def test_buckets_are_as_wide_as_one_threshold_each_allows(step: float, cut: int) -> None:
    fmt = CodebookFormat.from_values([1.0 + i * step for i in range(64)], f"dense{cut}")
    assert _tables_torch.encode_table(fmt, False, CPU).cut == cut
    x = around(np.linspace(0.9, 2.1, 3000, dtype=np.float32))
    np.testing.assert_array_equal(_tables_torch.encode_by_table(torch.from_numpy(x.copy()), fmt).numpy(), fmt.encode(x))


@dataclass(frozen=True, kw_only=True)
class Odd(IntFormat):
    """Rounds by a rule that no kernel knows."""

    descending: bool = False

    def _encode(self, x, how):  # type: ignore[no-untyped-def]
        if how.stochastic:
            how = how._replace(rounding=Rounding.NEAREST_EVEN)
        return super()._encode(-x if self.descending else x, how)


def test_rules_that_do_not_ascend_and_unknown_stochastic_rules_are_refused() -> None:
    backwards = CodebookFormat(name="backwards", table=(1.0, 0.0, -1.0))
    assert search_table(backwards).codes.tolist() == [2, 1, 0]
    fmt = Odd(name="odd_rule", width=4)
    assert layout_of(fmt).kind == "table"
    layout_for(Scheme(fmt))
    with pytest.raises(ValueError, match="odd_rule has a stochastic rounding of its own"):
        layout_for(Scheme(fmt, stochastic=True))


def test_formats_that_reach_beyond_float32_round_to_nearest_only() -> None:
    takum = get("takum8")
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    q = quantize(x, "takum8/row")
    np.testing.assert_array_equal(q.codes.numpy(), quantize_reference(x.numpy(), "takum8/row").codes)
    assert takum.max > torch.finfo(torch.float32).max
    with pytest.raises(ValueError, match=r"takum8 has .* levels beyond float32"):
        quantize(x, "takum8/row+sr", seed=0)


def check_every_way(fmt: Format, seed: int) -> None:
    """Nearest and stochastic codes, by bit arithmetic where there is one, and values, against the format itself."""
    rng = np.random.default_rng(seed)
    scale = 2.0 ** rng.uniform(-8, 2, 2000) * abs(fmt.max)
    x = np.concatenate([rng.standard_normal(2000) * scale, fmt.values()[np.isfinite(fmt.values())], [-0.0, 0.0]])
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    tensor, bits = torch.from_numpy(x), rng.integers(0, 1 << 24, x.size, dtype=np.int32)
    np.testing.assert_array_equal(_tables_torch.encode_by_table(tensor.clone(), fmt).numpy(), fmt.encode(x))
    layout, random = layout_of(fmt), torch.from_numpy(bits)
    if layout.kind == "table":
        codes = _tables_torch.encode_any(tensor.clone(), fmt, False, random, may_have_nan=False)
    else:
        np.testing.assert_array_equal(_cast_torch.encode(tensor.clone(), layout).numpy(), fmt.encode(x))
        codes = _cast_torch.encode(tensor.clone(), layout, random)
    np.testing.assert_array_equal(codes.numpy(), fmt.encode(x, "stochastic", random_bits=bits))
    every = torch.from_numpy(fmt.all_codes())
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(_tables_torch.decode(every, fmt).numpy(), fmt.values().astype(np.float32))


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=40),
    seed=st.integers(0, 2**32),
)
def test_any_codebook_is_served(values: list[float], seed: int) -> None:
    check_every_way(CodebookFormat.from_values(values), seed)


@given(
    exponent_bits=st.integers(1, 6), mantissa_bits=st.integers(0, 5), bias=st.integers(-8, 40), signed=st.booleans(),
    ending=st.sampled_from(["none", "fn", "ieee", "fnuz", "zero"]), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_any_minifloat_is_served(
    exponent_bits: int, mantissa_bits: int, bias: int, signed: bool, ending: str, seed: int
) -> None:
    options: dict[str, object] = {
        "none": {}, "fn": {"nan_codes": 1}, "ieee": {"nan_codes": 2, "has_infinity": True},
        "fnuz": {"nan_at_negative_zero": signed}, "zero": {"subnormals": False, "zero_at_bottom": True},
    }[ending]  # fmt: skip
    try:
        fmt = FloatFormat(
            exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, bias=bias, is_signed=signed, **options
        )
    except ValueError:
        return  # no such format
    if fmt.bits <= 8:
        check_every_way(fmt, seed)


@pytest.mark.parametrize("name", ["nf4", "dynamic8", "posit8es1", "rf8"])
def test_codes_decoded_in_pairs_have_the_values_of_single_ones(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fmt = get(name)
    every = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.uint8)) & (2**fmt.bits - 1)
    monkeypatch.setattr(_tables_torch, "PAIRS_PAY", 4)
    monkeypatch.setattr(_tables_torch, "BLOCK", 1000)
    expected = torch.from_numpy(fmt.decode(every.numpy()).astype(np.float32))
    for start, stop in ((0, 1 << 17), (0, 4097), (1, 9000), (2, 777)):  # whole, odd, beginning inside of a pair
        actual = _tables_torch.decode(every[start:stop], fmt)
        torch.testing.assert_close(actual, expected[start:stop], rtol=0, atol=0, equal_nan=True)
    out = torch.empty(9001)[1:]
    assert _tables_torch.decode(every[:9000], fmt, out) is out
    torch.testing.assert_close(out, expected[:9000], rtol=0, atol=0, equal_nan=True)
