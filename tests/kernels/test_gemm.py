"""scaled_gemm beside the conformance suite: exact products, the error bound, the plan of a launch, refusals."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import narrowgauge as ng
from narrowgauge.formats import CodebookFormat, FloatFormat, get, names, parse, quantize_reference
from narrowgauge.kernels import gemm
from narrowgauge.kernels._gemm_activation import ACTIVATIONS, activated
from narrowgauge.kernels._gemm_plan import INTERPRETER, operand_type, plan
from narrowgauge.kernels.gemm import GEMM

ONE = torch.ones((1, 1))
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950", INTERPRETER)
IMPLEMENTATIONS = ("torch", "triton")


def quantized(x: np.ndarray, scheme: str) -> tuple[Tensor, Tensor]:
    q = quantize_reference(x.astype(np.float32), scheme)
    return torch.from_numpy(q.codes), torch.from_numpy(np.asarray(q.scale))


def arguments(
    a_scheme: str, b_scheme: str, /, *, m: int = 6, n: int = 5, k: int = 64, **changes: Any
) -> tuple[Any, ...]:
    """A valid call, with some arguments changed."""
    rng = np.random.default_rng(0)
    a, a_scale = quantized(rng.standard_normal((m, k)), a_scheme)
    b, b_scale = quantized(rng.standard_normal((n, k)), b_scheme)
    call = {
        "a": a, "a_scale": a_scale, "b": b, "b_scale": b_scale, "a_scheme": a_scheme, "b_scheme": b_scheme,
        "bias": None, "out_dtype": torch.float32, "activation": "none",
    }  # fmt: skip
    assert changes.keys() <= call.keys()
    return tuple({**call, **changes}.values())


def run(implementation: str, *args: Any) -> Tensor:
    # The interpreter computes in numpy, which warns of the overflow and the NaN that are meant.
    with np.errstate(all="ignore"):
        return GEMM.implementation(implementation)(*args)


@pytest.fixture(autouse=True)
def _cpu_only(device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("the conformance suite runs scaled_gemm on other devices")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "pair", [("e4m3fn", "e4m3fn"), ("e5m2", "e4m3fn"), ("e4m3fnuz", "e3m4"), ("rf8", "rf8"), ("hif8", "posit8es1")]
)
def test_every_product_of_two_codes_is_exact(pair: tuple[str, str], implementation: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8).reshape(256, 1)
    out = run(implementation, codes, ONE, codes, ONE, *pair, None, torch.float32)
    with np.errstate(invalid="ignore"):
        expected = np.multiply.outer(get(pair[0]).values(), get(pair[1]).values())
    np.testing.assert_array_equal(out.numpy().astype(np.float64), expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("k", [1, 1023, 1024, 1025, 2500])
def test_integer_sums_are_those_of_int64_rounded_once(k: int, implementation: str, rng: np.random.Generator) -> None:
    a, b = (torch.from_numpy(rng.integers(-128, 128, (size, k), dtype=np.int8)) for size in (7, 5))
    # Rows of the largest magnitudes: -128 · -128 · 1024 is 2^24, the last sum that float32 counts exactly.
    a[0], b[0], b[1] = -128, -128, 127
    out = run(implementation, a, ONE, b, ONE, "int8_full", "int8_full", None, torch.float32)
    exact = a.numpy().astype(np.int64) @ b.numpy().astype(np.int64).T
    np.testing.assert_array_equal(out.numpy(), exact.astype(np.float32))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_transposed_views_give_the_bits_of_contiguous_integers(implementation: str) -> None:
    # One scale along K: the integer sums are exact, in whatever order the BLAS takes them.
    a, a_scale, b, b_scale, *rest = arguments("int8/32xall", "int8/row", k=96)
    views = (part.t().contiguous().t() for part in (a, a_scale, b, b_scale))
    assert torch.equal(run(implementation, a, a_scale, b, b_scale, *rest), run(implementation, *views, *rest))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pair", [("int8/32x32", "int8/1x32"), ("nf4/1x32", "e4m3fn/row")])
def test_transposed_views_stay_within_the_bound(pair: tuple[str, str], implementation: str) -> None:
    call = arguments(*pair, k=96)
    views = (part.t().contiguous().t() for part in call[:4])
    error = (run(implementation, *views, *call[4:]).double() - GEMM.reference(*call)).abs()
    assert (error <= GEMM.bound.tolerance(*call)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pair", [("e4m3fn/1x32", "e4m3fn/32x32"), ("mxfp8", "mxfp4"), ("int8/1x32", "int8/row")])
def test_blocks_of_very_different_scales_stay_within_the_bound(pair: tuple[str, str], implementation: str) -> None:
    rng = np.random.default_rng(3)
    magnitude = np.repeat(10.0 ** rng.integers(-9, 9, 5), 32)[None, :140]
    a, a_scale = quantized(rng.standard_normal((9, 140)) * magnitude, pair[0])
    b, b_scale = quantized(rng.standard_normal((11, 140)) / magnitude, pair[1])
    call = (a, a_scale, b, b_scale, *pair, None, torch.float32)
    error = (run(implementation, *call).double() - GEMM.reference(*call)).abs()
    assert (error <= GEMM.bound.tolerance(*call)).all()


@pytest.mark.parametrize(
    "pair", [("e4m3fn/row", "e4m3fn/row"), ("e4m3fn/1x128", "e4m3fn/128x128"), ("int8/row", "int8")]
)
def test_bound_is_too_tight_for_a_lost_term(pair: tuple[str, str]) -> None:
    call = arguments(*pair, m=40, n=40, k=257)
    a, a_scale, b, *rest = call
    cut = a.clone()
    cut[:, -1] = 0
    lost = GEMM(cut, a_scale, b, *rest).double()
    outside = (lost - GEMM.reference(*call)).abs() > GEMM.bound.tolerance(*call)
    # Where the last product was zero nothing is lost.
    assert outside.float().mean() > 0.9


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("scheme", ["e4m3fn/row", "int8/row", "e4m3fn/1x32", "mxfp8"])
def test_a_nan_scale_spoils_its_row_alone(scheme: str, implementation: str) -> None:
    call = arguments(scheme, scheme, m=5, k=100)
    call[1][2, 0] = 0xFF if call[1].dtype == torch.uint8 else torch.nan
    out = run(implementation, *call)
    assert torch.isnan(out).all(dim=1).nonzero().flatten().tolist() == [2]
    assert not torch.isnan(out[[0, 1, 3, 4]]).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_empty_contraction_leaves_the_bias(implementation: str, out_dtype: torch.dtype) -> None:
    bias = torch.tensor([1.0, -2.5, 0.0, 3.0, 0.125])
    out = run(implementation, *arguments("e4m3fn/row", "e4m3fn/1x16", k=0, bias=bias, out_dtype=out_dtype))
    assert out.dtype == out_dtype
    assert torch.equal(out, bias.to(out_dtype).expand(6, 5))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_follows_the_bias(activation: str, implementation: str) -> None:
    bias = torch.linspace(-3, 3, 5)
    call = arguments("e4m3fn/row", "e4m3fn/32x32", bias=bias)
    out = run(implementation, *call[:-1], activation).double()
    plain = run(implementation, *call).double()
    torch.testing.assert_close(out, activated(plain, activation), rtol=1e-5, atol=1e-5)
    assert ((out - plain).abs().max() > 0.1) == (activation != "none")
    tolerance = GEMM.bound.tolerance(*call[:-1], activation)
    assert ((out - GEMM.reference(*call[:-1], activation)).abs() <= tolerance).all()


def test_an_activation_is_asked_for_by_a_trailing_argument_that_may_be_left_out() -> None:
    call = arguments("int8/row", "int8")
    assert torch.equal(GEMM(*call[:-1]), GEMM(*call))
    assert torch.equal(GEMM(*call[:-1], "relu"), GEMM(*call).relu())


def test_a_compiled_call_gives_the_same_bits() -> None:
    call = arguments("e4m3fn/row", "e5m2")

    def product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
        return GEMM(a, a_scale, b, b_scale, *call[4:]) + 1

    compiled = torch.compile(product, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*call[:4]), product(*call[:4]))


def test_cost_counts_two_operations_per_product_and_every_byte_once() -> None:
    cost = GEMM.cost(*arguments("e4m3fn/row", "e4m3fn/32x32", out_dtype=torch.bfloat16))
    assert cost.flops == 2 * 6 * 5 * 64
    assert cost.bytes == 6 * 64 + 5 * 64 + 4 * (6 + 2) + 2 * 6 * 5


EIGHT_BIT_FLOATS = [
    name
    for name in names()
    if isinstance(fmt := get(name), FloatFormat) and fmt.bits <= 8 and fmt.has_zero and fmt.has_nan
]


@pytest.mark.parametrize("name", [*EIGHT_BIT_FLOATS, "rf8b-20", "rf8b20", "e2m1fn", "e2m3fn", "e3m2fn"])
def test_operand_type_holds_every_value_exactly(name: str) -> None:
    values = get(name).values()
    finite = values[np.isfinite(values)]
    chosen = operand_type(get(name), get(name), "sm_80")
    held = torch.from_numpy(finite).to({"fp16": torch.float16, "bf16": torch.bfloat16}[chosen])
    np.testing.assert_array_equal(held.double().numpy(), finite)


def test_values_that_no_narrow_type_holds_are_multiplied_in_float32() -> None:
    thirds = CodebookFormat.from_values([0.0, 1 / 3, 2 / 3, 1.0], "thirds")
    assert operand_type(thirds, get("e4m3fn"), "sm_90") == "fp32"
    assert operand_type(get("nf4"), get("nf4"), INTERPRETER) == "fp32"
    assert operand_type(get("hif8"), get("hif8"), "sm_90") == "fp16"
    scheme = parse("nf4/row")
    assert plan(scheme, scheme, "sm_90").precision == "bf16x6"
    assert plan(scheme, scheme, "gfx942").precision == "ieee"


def test_native_fp8_goes_to_the_targets_that_have_it_and_is_promoted_where_sums_are_short_of_digits() -> None:
    e4m3, e5m2, fnuz = get("e4m3fn"), get("e5m2"), get("e4m3fnuz")
    native = {target for target in TARGETS if operand_type(e5m2, e4m3, target) == "fp8"}
    assert native == {"sm_89", "sm_90", "sm_100", "sm_120", "gfx950"}
    rows, blocks = parse("e4m3fn/row"), parse("e4m3fn/1x128")
    promoted = {target: plan(rows, rows, target).promote for target in sorted(native)}
    assert promoted == {"gfx950": "", "sm_100": "", "sm_120": "sum", "sm_89": "sum", "sm_90": "wgmma"}
    # A K-block's partial sum is added in float32 as it is.
    assert {plan(blocks, rows, target).promote for target in native} == {""}
    assert {target for target in TARGETS if operand_type(fnuz, fnuz, target) == "fp8"} == {"gfx942"}
    assert operand_type(get("rf8"), e4m3, "sm_90") == "fp16"
    assert operand_type(get("int8"), get("int8"), "sm_80") == "int8"


def test_old_gpus_are_refused_with_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    call = arguments("e4m3fn", "e4m3fn")
    assert GEMM.unsupported(*call) is None
    monkeypatch.setattr(gemm, "target_of", lambda device: "sm_75")
    assert "8.0 or newer" in str(GEMM.unsupported(*call))


codes, scale = torch.zeros((6, 64), dtype=torch.uint8), torch.ones((6, 1))
WRONG: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"a": codes.float()}, TypeError, "a: e4m3fn/row has uint8 codes, got float32"),
    ({"b": codes.to(torch.int8)}, TypeError, "b: e4m3fn/row has uint8 codes, got int8"),
    ({"a": codes.reshape(2, 3, 64)}, ValueError, "a: expected a matrix of codes, got shape (2, 3, 64)"),
    ({"a_scale": scale.double()}, TypeError, "a_scale: e4m3fn/row has float32 scales, got float64"),
    ({"a_scale": scale.t()}, ValueError, "a_scale: e4m3fn/row on codes of shape (6, 64) has scales of shape (6, 1)"),
    ({"b_scale": scale}, ValueError, "b_scale: e4m3fn/row on codes of shape (5, 64) has scales of shape (5, 1)"),
    ({"b": codes[:, 1:], "b_scale": scale}, ValueError, "b: expected [N, 64] for a of shape (6, 64), got (6, 63)"),
    ({"bias": torch.zeros(6)}, ValueError, "bias: expected [5] floating numbers, got float32 (6,)"),
    ({"bias": torch.zeros(5, dtype=torch.int32)}, ValueError, "bias: expected [5] floating numbers, got int32 (5,)"),
    ({"out_dtype": torch.float64}, TypeError, "out_dtype: expected float32, bfloat16, float16, got float64"),
    ({"b": torch.zeros((5, 64), dtype=torch.uint8, device="meta")}, ValueError, "b: is on meta, a on cpu"),
    ({"b_scheme": "e4m3fn/col"}, ValueError, "b_scheme: e4m3fn/col has a scale for every element of the contraction"),
    ({"a_scheme": "uint8"}, ValueError, "a_scheme: uint8 has unsigned codes"),
    ({"a_scheme": "int8"}, ValueError, "b_scheme: e4m3fn/row does not go with int8"),
    ({"a_scheme": "e4m3fn/1x32", "b_scheme": "e4m3fn/1x48"}, ValueError, "K-blocks of 48 columns, e4m3fn/1x32 of 32"),
    ({"a_scheme": "binary8p1se", "b_scheme": "binary8p1se"}, ValueError, "beyond the float32 accumulator"),
    ({"a_scheme": "rf8b125", "b_scheme": "rf8"}, ValueError, "beyond the float32 accumulator"),
    ({"activation": "gelu_tan"}, ValueError, "activation: got 'gelu_tan', accepted: none, relu, gelu, gelu_tanh, silu"),
    ({"a_scheme": "int8", "b_scheme": "nf4"}, ValueError, "b_scheme: nf4 does not go with int8"),
)  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "text"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_wrong_arguments_are_refused_by_name(changes: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        GEMM.implementation("torch")(*arguments("e4m3fn/row", "e4m3fn/row", **changes))
    assert text in str(caught.value)


def test_two_level_scales_come_as_factors() -> None:
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    q = ng.quantize(x, "nvfp4")
    with pytest.raises(ValueError, match=r"a_scale: nvfp4 has a second scale for the whole tensor.*factors\(\)"):
        GEMM(q.codes, q.scale, q.codes, q.scale, "nvfp4", "nvfp4", None, torch.float32)
    out = GEMM(q.codes, q.factors(), q.codes, q.factors(), "nvfp4", "nvfp4", None, torch.float32)
    values = q.dequantize().double()
    torch.testing.assert_close(out.double(), values @ values.t(), rtol=1e-5, atol=1e-5)


def test_integer_sums_that_may_leave_int32_are_refused() -> None:
    k = 2**17
    a = torch.zeros((1, k), dtype=torch.int8)
    with pytest.raises(ValueError, match="a: sums of 131072 products may leave int32; accepted: at most 131071"):
        GEMM(a, ONE, a, ONE, "int8", "int8", None, torch.float32)
    blocks = torch.ones((1, k // 1024))
    assert GEMM(a, blocks, a, blocks, "int8/1x1024", "int8/1x1024", None, torch.float32).item() == 0


@pytest.mark.parametrize("bytes_", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1, 1), (7, 5, 1), (7, 5, 0), (0, 3, 8), (9, 2, 2), (33, 17, 1023), (5, 9, 3001), (2, 3, 40000)],
)
def test_integer_products_of_both_kinds_are_exact(
    monkeypatch: pytest.MonkeyPatch, bytes_: bool, m: int, n: int, k: int
) -> None:
    monkeypatch.setattr(gemm, "multiplies_bytes", lambda: bytes_)
    rng = np.random.default_rng(k)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((m, k), (n, k)))
    a[:, : k // 2] = b[:, : k // 2] = -128  # the largest sums
    expected = a.astype(np.int64) @ b.astype(np.int64).T
    for left, right in product((a, np.asfortranarray(a)), (b, np.asfortranarray(b))):
        actual = gemm._exact_sum(torch.from_numpy(left), torch.from_numpy(right), 1024)
        assert torch.equal(actual, torch.from_numpy(expected).float())


@pytest.mark.parametrize("pair", [("e4m3fn/row", "e4m3fn/row"), ("e4m3fn/1x32", "e4m3fn/32x32"), ("mxfp8", "nf4")])
@pytest.mark.parametrize("turned", [False, True])
def test_an_operand_decoded_in_blocks_gives_the_same_product(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str], turned: bool
) -> None:
    args = list(arguments(*pair, m=5, n=101, k=64))
    args[2] = args[2].t().contiguous().t() if turned else args[2]
    whole = GEMM(*args)
    monkeypatch.setattr(gemm, "DECODED", 640)  # ten rows, or 32 where tiles are as high
    torch.testing.assert_close(GEMM(*args), whole, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(gemm, "FEW_ROWS", 4)
    assert torch.equal(GEMM(*args), whole)
