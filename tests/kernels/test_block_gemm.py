"""block_scaled_gemm beside the conformance suite: paths of the targets, layouts of codes and scales, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import narrowgauge as ng
from narrowgauge.formats import get, parse
from narrowgauge.kernels import _block_gemm_triton as kernels
from narrowgauge.kernels._block_gemm_checks import check
from narrowgauge.kernels._block_gemm_plan import Config, candidates, path_of, seconds
from narrowgauge.kernels._gemm_plan import INTERPRETER
from narrowgauge.kernels._gpu_facts import gpu_of
from narrowgauge.kernels.block_gemm import BLOCK_GEMM, PAIRS
from narrowgauge.kernels.packing import pack
from narrowgauge.kernels.swizzle import SWIZZLE

IMPLEMENTATIONS = ("torch", "triton")
TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950", INTERPRETER)


def arguments(a_scheme: str, b_scheme: str, /, *, m: int = 6, n: int = 5, k: int = 64, **changes: Any) -> list[Any]:
    """A valid call, codes one a byte and scales by rows, with some arguments changed."""
    generator = torch.Generator().manual_seed(0)
    q = [
        ng.quantize(torch.randn(rows, k, generator=generator), scheme)
        for rows, scheme in ((m, a_scheme), (n, b_scheme))
    ]
    outer = [side.outer if side.scheme.two_level else None for side in q]
    call = {
        "a": q[0].codes, "a_scale": q[0].scale, "a_outer": outer[0], "b": q[1].codes, "b_scale": q[1].scale,
        "b_outer": outer[1], "a_scheme": a_scheme, "b_scheme": b_scheme, "packed": False, "bias": None,
        "out_dtype": torch.float32,
    }  # fmt: skip
    assert changes.keys() <= call.keys()
    return list({**call, **changes}.values())


def run(implementation: str, call: list[Any]) -> Tensor:
    with np.errstate(all="ignore"):
        out: Tensor = BLOCK_GEMM.implementation(implementation)(*call)
    return out


@pytest.fixture(autouse=True)
def _cpu_only(device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("the conformance suite runs block_scaled_gemm on other devices")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pair", PAIRS)
def test_product_is_that_of_the_dequantised_operands(pair: tuple[str, str], implementation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (
        ng.quantize(torch.randn(n, 96, generator=generator), scheme) for n, scheme in zip((6, 5), pair, strict=True)
    )
    expected = a.dequantize(torch.float32).double() @ b.dequantize(torch.float32).double().t()
    out = run(implementation, arguments(*pair, k=96))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pair", [("mxfp4", "mxfp4"), ("mxfp8", "mxfp4"), ("nvfp4", "nvfp4")])
def test_packed_codes_and_tiled_scales_give_the_same_bits(pair: tuple[str, str], implementation: str) -> None:
    call = arguments(*pair, m=37, n=130, k=70)
    expected = run(implementation, call)
    for side in (0, 3):
        if parse(call[6 + side // 3]).element.bits == 4:
            call[side] = pack(call[side], 4)
        call[side + 1] = SWIZZLE(call[side + 1], "128x4")
    call[8] = True
    assert torch.equal(run(implementation, call), expected)


@pytest.mark.parametrize("how", ["decoded", "expanded"])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("pair", [("mxfp8", "mxfp4"), ("nvfp4", "nvfp4")])
@pytest.mark.parametrize("block", [(128, 128, 128), (64, 32, 64), (32, 64, 32)])
def test_every_way_of_a_launch_is_within_the_bound(
    pair: tuple[str, str], tiled: bool, how: str, block: tuple[int, int, int]
) -> None:
    call = arguments(*pair, m=37, n=33, k=100)
    if tiled:
        call[1], call[4] = SWIZZLE(call[1], "128x4"), SWIZZLE(call[4], "128x4")
    specs, sides, k = check(*call)
    out = kernels.launch(*call[:6], specs, sides, k, None, torch.float32, Config(how, *block, 4, 1))
    assert ((out.double() - BLOCK_GEMM.reference(*call)).abs() <= BLOCK_GEMM.bound.tolerance(*call)).all()


def test_bound_is_too_tight_for_a_lost_block() -> None:
    call = arguments("mxfp8", "mxfp8", m=40, n=40, k=256)
    expected, bound = BLOCK_GEMM.reference(*call), BLOCK_GEMM.bound.tolerance(*call)
    call[0] = call[0].clone()
    call[0][:, -32:] = 0
    assert ((run("torch", call).double() - expected).abs() > bound).float().mean() > 0.95


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_scale_of_nvfp4_but_nan_is_exact(implementation: str) -> None:
    scale = torch.arange(127, dtype=torch.uint8).reshape(127, 1)
    ones = torch.full((127, 16), int(get("e2m1fn").encode(0.5)), dtype=torch.uint8)
    outer = torch.tensor(2.0)
    b = torch.zeros((1, 16), dtype=torch.uint8)
    b[0, 0] = int(get("e2m1fn").encode(1.0))
    one = torch.tensor([[int(get("e4m3fn").encode(1.0))]], dtype=torch.uint8)
    out = run(implementation, [ones, scale, outer, b, one, outer, "nvfp4", "nvfp4", False, None, torch.float32])
    np.testing.assert_array_equal(out.numpy()[:, 0], 2.0 * get("e4m3fn").values()[:127])


@pytest.mark.parametrize(
    ("source", "packed"), [("e2m3fn", False), ("e3m2fn", False), ("e2m1fn", False), ("e2m1fn", True)]
)
def test_narrower_codes_are_rewritten_as_e4m3_without_loss(source: str, packed: bool) -> None:
    fmt = get(source)
    scheme = {"e2m3fn": "mxfp6", "e3m2fn": "mxfp6_e3m2", "e2m1fn": "mxfp4"}[source]
    codes = torch.arange(3 * 2**fmt.bits, dtype=torch.uint8).reshape(3, -1) % 2**fmt.bits
    given = pack(codes, 4) if packed else codes
    fed = kernels._fed(given, parse(scheme), packed, "e4m3", codes.shape[1])
    np.testing.assert_array_equal(get("e4m3fn").decode(fed.numpy()), fmt.decode(codes.numpy()))


def test_single_codes_are_packed_low_nibble_first() -> None:
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 16, (17, 35), dtype=np.uint8))
    assert torch.equal(kernels._fed(codes, parse("mxfp4"), False, "e2m1", 35), pack(codes, 4))
    assert kernels._fed(codes, parse("mxfp4"), True, "e2m1", 70) is codes


def test_matrix_units_that_know_the_scales_are_given_them() -> None:
    def native(a: str, b: str) -> set[str]:
        return {target for target in TARGETS if path_of(parse(a), parse(b), target).native}

    assert native("mxfp8", "mxfp8") == native("mxfp4", "mxfp8") == {"sm_100", "sm_120", "gfx950"}
    assert native("nvfp4", "nvfp4") == {"sm_100", "sm_120"}
    assert path_of(parse("mxfp8_e5m2"), parse("mxfp4"), "sm_100")[1:] == ("e5m2", "e2m1")
    assert path_of(parse("mxfp8_e5m2"), parse("mxfp4"), "sm_120")[1:] == ("e5m2", "e4m3")
    assert path_of(parse("mxfp6"), parse("mxfp6_e3m2"), "sm_100")[1:] == ("e4m3", "e4m3")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_launch_is_found_that_fits(target: str, pair: tuple[str, str]) -> None:
    path = path_of(parse(pair[0]), parse(pair[1]), target)
    for m, n, k in ((1, 1, 32), (16, 4096, 4096), (8192, 8192, 8192)):
        best = min(candidates(path, target), key=lambda c: seconds(c, m, n, k, path, target))
        assert 0 < seconds(best, m, n, k, path, target) < float("inf")
        assert best.block_k % 32 == 0
        assert best.num_stages * (best.block_m + best.block_n) * best.block_k // 2 <= gpu_of(target).shared
        assert (best.how == "scaled") == path.native


def test_many_rows_are_decoded_once_and_few_in_registers() -> None:
    path = path_of(parse("nvfp4"), parse("nvfp4"), "sm_90")
    best = [
        min(candidates(path, "sm_90"), key=lambda c: seconds(c, m, 8192, 8192, path, "sm_90")).how for m in (16, 8192)
    ]
    assert best == ["decoded", "expanded"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_empty_contraction_leaves_the_bias(implementation: str) -> None:
    bias = torch.tensor([1.0, -2.5, 0.0, 3.0, 0.125])
    out = run(implementation, arguments("mxfp8", "mxfp8", k=0, bias=bias, out_dtype=torch.bfloat16))
    assert torch.equal(out, bias.bfloat16().expand(6, 5))


def test_packed_codes_halve_the_bytes_and_not_the_work() -> None:
    call = arguments("mxfp4", "mxfp4")
    single = BLOCK_GEMM.cost(*call)
    call[0], call[3], call[8] = pack(call[0], 4), pack(call[3], 4), True
    packed = BLOCK_GEMM.cost(*call)
    assert packed.flops == single.flops == 2 * 6 * 5 * 64
    assert single.bytes - packed.bytes == (6 + 5) * 32


codes, scale = torch.zeros((6, 64), dtype=torch.uint8), torch.zeros((6, 2), dtype=torch.uint8)
WRONG: tuple[tuple[str, dict[str, Any], type[Exception], str], ...] = (
    ("mxfp8", {"a": codes.float()}, TypeError, "a: expected uint8 codes, got float32"),
    ("mxfp8", {"b": codes[0]}, ValueError, "b: expected a matrix of codes, got shape (64,)"),
    ("mxfp8", {"b": codes[:5, 1:]}, ValueError, "b: the contraction of a, (6, 64), and b, (5, 63), differs"),
    ("mxfp8", {"a_scale": scale.float()}, TypeError, "a_scale: mxfp8_e4m3 has uint8 scale codes, got float32"),
    ("mxfp8", {"a_scale": scale[:, :1]}, ValueError, "scales of shape (6, 2), or (512,) contiguous in layout '128x4'"),
    ("mxfp8", {"a_outer": torch.ones(())}, ValueError, "a_outer: mxfp8_e4m3 has no second scale"),
    ("mxfp8", {"b_scheme": "nvfp4"}, ValueError, "b_scheme: nvfp4 does not go with mxfp8"),
    ("mxfp8", {"a_scheme": "e4m3fn/row"}, ValueError, "a_scheme: got 'e4m3fn/row', accepted: mxfp8, mxfp8_e5m2"),
    ("mxfp8", {"a_scheme": "nvfp4_2d"}, ValueError, "a_scheme: got 'nvfp4_2d', accepted"),
    ("mxfp8", {"packed": True}, ValueError, "packed: neither mxfp8 nor mxfp8 has codes of 4 bits"),
    ("mxfp8", {"bias": torch.zeros(6)}, ValueError, "bias: expected [5] floating numbers, got float32 (6,)"),
    ("mxfp8", {"out_dtype": torch.float64}, TypeError, "out_dtype: expected float32, bfloat16, float16, got float64"),
    ("mxfp8", {"b_scale": torch.zeros((5, 2), dtype=torch.uint8, device="meta")}, ValueError, "b_scale: is on meta"),
    ("nvfp4", {"b_outer": None}, ValueError, "b_outer: nvfp4 has one float32 scale for the whole tensor, got None"),
    ("mxfp4", {"a": codes[:, :31], "packed": True}, ValueError, "b: the contraction of a, (6, 31) packed"),
)  # fmt: skip


@pytest.mark.parametrize(("scheme", "changes", "kind", "text"), WRONG, ids=[case[3][:40] for case in WRONG])
def test_wrong_arguments_are_refused_by_name(
    scheme: str, changes: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as caught:
        BLOCK_GEMM.implementation("torch")(*arguments(scheme, scheme, **changes))
    assert text in str(caught.value)
