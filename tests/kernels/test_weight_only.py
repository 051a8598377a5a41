"""weight_only_gemm: every implementation on every sample within the bound, exact products, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.formats import get, parse, quantize_reference
from narrowgauge.kernels import _weight_only_torch as cpu
from narrowgauge.kernels import pack
from narrowgauge.kernels.quantize import stored_scale
from narrowgauge.kernels.weight_only import WEIGHT_ONLY_GEMM

IMPLEMENTATIONS = ("torch", "triton")
ARGUMENTS = ("x", "codes", "scale", "outer", "zero_point", "scheme", "cols", "packed", "bias", "out_dtype")


def arguments(scheme: str, /, *, t: int = 3, n: int = 6, k: int = 64, seed: int = 0, **changes: Any) -> tuple[Any, ...]:
    """A valid call, packed where the format is, with some arguments changed."""
    rng = np.random.default_rng(seed)
    q = quantize_reference(rng.standard_normal((n, k)).astype(np.float32), scheme)
    fmt, codes = q.scheme.element, torch.from_numpy(q.codes)
    call = {
        "x": torch.from_numpy(rng.standard_normal((t, k)).astype(np.float32)),
        "codes": pack(codes, fmt.bits) if fmt.bits < 8 else codes,
        "scale": stored_scale(q),
        "outer": torch.from_numpy(q.outer) if q.scheme.two_level else None,
        "zero_point": None, "scheme": scheme, "cols": k, "packed": fmt.bits < 8, "bias": None,
        "out_dtype": torch.float32,
    }  # fmt: skip
    assert changes.keys() <= call.keys()
    return tuple({**call, **changes}.values())


def run(implementation: str, *args: Any) -> Tensor:
    # The interpreter computes in numpy, which warns of the overflow and the NaN that are meant.
    with np.errstate(all="ignore"):
        return WEIGHT_ONLY_GEMM.implementation(implementation)(*args)


@pytest.fixture(autouse=True)
def _cpu_only(device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("the conformance suite runs weight_only_gemm on other devices")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["int8", "int4", "uint8", "e4m3fn", "e5m2", "rf8", "e2m1fn", "hif8", "int3", "e3m2fn"])
def test_every_value_comes_through_exactly(name: str, dtype: torch.dtype, implementation: str) -> None:
    fmt, spec = get(name), parse(name)
    every = np.arange(2**fmt.bits)
    finite = every[np.isfinite(fmt.decode(every.astype(fmt.code_dtype)))].astype(fmt.code_dtype)
    codes, one = torch.from_numpy(finite)[:, None], torch.ones(spec.scale_shape((len(finite), 1)))
    stored = pack(codes, fmt.bits) if fmt.bits < 8 else codes
    # As many rows as the CPU multiplies in bfloat16.
    x = torch.ones((12 if implementation == "torch" else 1, 1), dtype=dtype)
    out = run(implementation, x, stored, one, None, None, name, 1, fmt.bits < 8, None, dtype)
    np.testing.assert_array_equal(out.double().numpy(), np.broadcast_to(fmt.decode(finite), out.shape))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("scheme", ["int4/1x32", "nf4/1x64", "mxfp4", "int3/1x8", "nvfp4"])
def test_packed_codes_are_the_codes(scheme: str, implementation: str) -> None:
    call = list(arguments(scheme, k=96))
    q = quantize_reference(np.random.default_rng(0).standard_normal((6, 96)).astype(np.float32), scheme)
    plain = [*call]
    plain[1], plain[7] = torch.from_numpy(q.codes), False
    a, b = run(implementation, *call).double(), run(implementation, *plain).double()
    assert ((a - b).abs() <= 2 * WEIGHT_ONLY_GEMM.bound.tolerance(*call)).all()


@pytest.mark.parametrize("scheme", ["int8/row", "int4/1x32", "mxfp4", "int6/4x24"])
def test_bound_is_too_tight_for_a_lost_term(scheme: str) -> None:
    call = arguments(scheme, t=20, n=20, k=257)
    cut = call[0].clone()
    cut[:, -1] = 0
    lost = run("torch", cut, *call[1:]).double()
    outside = (lost - WEIGHT_ONLY_GEMM.reference(*call)).abs() > WEIGHT_ONLY_GEMM.bound.tolerance(*call)
    # Where the last product was zero nothing is lost.
    assert outside.float().mean() > 0.6


@pytest.mark.parametrize("scheme", ["int8/row", "int8/96x64", "nf4/1x64", "nvfp4_2d", "int4/3x40", "int6/1x16", "rf8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_rows_are_the_whole(scheme: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    call = arguments(scheme, t=9, n=101, k=72, bias=torch.arange(101.0), out_dtype=dtype)
    call = (call[0].to(dtype), *call[1:])
    monkeypatch.setattr(cpu, "BLOCK", 500)
    blocks = run("torch", *call)
    error = (blocks.double() - WEIGHT_ONLY_GEMM.reference(*call)).abs()
    assert (error <= WEIGHT_ONLY_GEMM.bound.tolerance(*call)).all()


def test_memory_stays_a_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(cpu, "BLOCK", 4096)
    real = torch.empty

    def empty(*shape: Any, **options: Any) -> Tensor:
        made.append(real(*shape, **options))
        return made[-1]

    monkeypatch.setattr(cpu.torch, "empty", empty)
    call = arguments("nf4/1x64", n=512, k=256)
    run("torch", *call)
    assert sum(tensor.nbytes for tensor in made) <= 4 * 4 * 4096


def test_a_compiled_call_gives_the_same_bits() -> None:
    call = arguments("nf4/1x64")

    def product(x: Tensor) -> Tensor:
        return WEIGHT_ONLY_GEMM(x, *call[1:]) + 1

    assert torch.equal(torch.compile(product, backend="aot_eager", fullgraph=True)(call[0]), product(call[0]))


def test_cost_reads_packed_codes_once() -> None:
    cost = WEIGHT_ONLY_GEMM.cost(*arguments("int4/1x32"))
    assert cost.flops == 2 * 3 * 6 * 64
    assert cost.bytes == 4 * 3 * 64 + 6 * 32 + 6 * 2 * 4 + 4 * 3 * 6


WRONG: tuple[tuple[str, dict[str, Any], type[Exception], str], ...] = (
    ("int8/row", {"x": torch.zeros(3, 64, dtype=torch.int8)}, TypeError, "x: expected float32, bfloat16"),
    ("int8/row", {"x": torch.zeros(3, 63)}, ValueError, "x: expected [T, 64], got (3, 63)"),
    ("int8/row", {"codes": torch.zeros(6, 64, dtype=torch.uint8)}, TypeError, "codes: int8/row has int8 codes, got"),
    ("int8/row", {"packed": True}, ValueError, "packed: codes of int8 take a byte each"),
    ("int4/row", {"packed": False}, TypeError, "codes: int4/row has int8 codes, got uint8"),
    ("int4/row", {"codes": torch.zeros(6, 64, dtype=torch.uint8)}, ValueError, "codes: expected [N, 32] for 64"),
    ("int8/row", {"scale": torch.ones(1, 6)}, ValueError, "scale: int8/row on 6 x 64 has scales (6, 1), got (1, 6)"),
    ("int8/row", {"scale": torch.ones(6, 1).double()}, TypeError, "scale: int8/row has float32 scales, got float64"),
    ("int8/row", {"outer": torch.ones(())}, ValueError, "outer: int8/row has no second scale"),
    ("nvfp4", {"outer": None}, ValueError, "outer: nvfp4 has a second scale"),
    ("nvfp4", {"outer": torch.ones(1)}, ValueError, "outer: expected [] float32"),
    ("mxfp4", {"zero_point": torch.ones(6, 2)}, ValueError, "zero_point: mxfp4 is a block format"),
    ("int8/row", {"zero_point": torch.ones(6)}, ValueError, "zero_point: expected (6, 1) float32"),
    ("int8/row", {"bias": torch.zeros(5)}, ValueError, "bias: expected [6] floating numbers"),
    ("int8/row", {"out_dtype": torch.int32}, TypeError, "out_dtype: expected float32"),
    ("int8/row", {"scale": torch.ones(6, 1, device="meta")}, ValueError, "scale: is on meta, x on cpu"),
    ("int8/row", {"scheme": "int16/row"}, ValueError, "at most 8 bits"),
)


@pytest.mark.parametrize(("scheme", "changes", "kind", "text"), WRONG, ids=[case[3][:40] for case in WRONG])
def test_wrong_arguments_are_refused_by_name(
    scheme: str, changes: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as caught:
        WEIGHT_ONLY_GEMM.implementation("torch")(*arguments(scheme, **changes))
    assert text in str(caught.value)
