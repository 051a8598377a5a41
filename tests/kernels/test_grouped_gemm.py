"""grouped_gemm beside the conformance suite: equality with the products one by one, offsets, launches, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels import _grouped_gemm_triton as kernels
from narrowgauge.kernels._gemm_plan import INTERPRETER, PROMOTE_EVERY
from narrowgauge.kernels._gpu_facts import gpu_of
from narrowgauge.kernels._grouped_gemm_plan import candidates, key_of, promotes, seconds, work_of
from narrowgauge.kernels.gemm import GEMM
from narrowgauge.kernels.grouped_gemm import GROUPED_GEMM, quantized

IMPLEMENTATIONS = ("torch", "triton")
TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950", INTERPRETER)


def arguments(
    a_scheme: str, b_scheme: str, /, *, ends: tuple[int, ...] = (4, 4, 9), n: int = 5, k: int = 64, **changes: Any
) -> list[Any]:
    """A valid call, with some arguments changed."""
    rng = np.random.default_rng(0)
    a, a_scale = quantized(rng, (ends[-1], k), a_scheme)
    weights = [quantized(rng, (n, k), b_scheme) for _ in ends]
    call = {
        "a": a, "a_scale": a_scale, "b": torch.stack([codes for codes, _ in weights]),
        "b_scale": torch.stack([scale for _, scale in weights]), "offsets": torch.tensor(ends, dtype=torch.int32),
        "a_scheme": a_scheme, "b_scheme": b_scheme, "out_dtype": torch.float32,
    }  # fmt: skip
    assert changes.keys() <= call.keys()
    return list({**call, **changes}.values())


def run(implementation: str, call: list[Any]) -> Tensor:
    with np.errstate(all="ignore"):
        out: Tensor = GROUPED_GEMM.implementation(implementation)(*call)
    return out


@pytest.fixture(autouse=True)
def _cpu_only(device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("the conformance suite runs grouped_gemm on other devices")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("pair", [("e4m3fn/row", "e4m3fn"), ("int8/row", "int8/row"), ("e4m3fn/1x32", "e4m3fn/32x32")])
def test_each_group_is_the_product_of_its_rows_with_its_matrix(pair: tuple[str, str], implementation: str) -> None:
    call = arguments(*pair)
    a, a_scale, b, b_scale, offsets, *_ = call
    out = run(implementation, call)
    start = 0
    for group, end in enumerate(offsets.tolist()):
        one = (a[start:end], a_scale[start:end], b[group], b_scale[group], *pair, None, torch.float32)
        assert ((out[start:end].double() - GEMM.reference(*one)).abs() <= GEMM.bound.tolerance(*one)).all()
        start = end


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_behind_the_last_group_are_zero_whatever_their_scales(implementation: str, poisoned_empty: None) -> None:
    call = arguments("e4m3fn/row", "e4m3fn/row")
    call[1][7:] = float("nan")
    call[4] = torch.tensor([4, 4, 7], dtype=torch.int32)
    out = run(implementation, call)
    assert torch.isfinite(out[:7]).all()
    assert (out[7:] == 0).all()


def test_ends_that_descend_or_go_too_far_are_clipped_by_the_kernel() -> None:
    call = arguments("e4m3fn/row", "e4m3fn/row")
    call[4] = torch.tensor([6, 3, 12], dtype=torch.int32)
    clipped = [*call[:4], torch.tensor([6, 6, 9], dtype=torch.int32), *call[5:]]
    assert torch.equal(run("triton", call), run("triton", clipped))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_transposed_view_of_the_weights_gives_the_same_integers(implementation: str) -> None:
    call = arguments("int8/row", "int8/row")
    expected = run(implementation, call)
    call[2] = call[2].mT.contiguous().mT
    assert torch.equal(run(implementation, call), expected)


def test_bound_is_too_tight_for_a_row_of_another_group() -> None:
    call = arguments("e4m3fn/row", "e4m3fn/row", ends=(10, 20), n=30)
    expected, bound = GROUPED_GEMM.reference(*call), GROUPED_GEMM.bound.tolerance(*call)
    call[4] = torch.tensor([9, 20], dtype=torch.int32)
    outside = (run("torch", call).double() - expected).abs() > bound
    assert outside[9].float().mean() > 0.9
    assert not outside[:9].any()


def test_places_in_tiles_are_64_bits_wide_where_strides_are_large() -> None:
    near, far = torch.empty((8, 64)), torch.empty((64, 2**22), device="meta")
    assert kernels.index_type(near, near.t()) == kernels.tl.int32
    assert kernels.index_type(near, far.t()) == kernels.tl.int64


SCHEMES = (
    ("e4m3fn/row", "e4m3fn/row"), ("e4m3fn/1x128", "e4m3fn/128x128"), ("mxfp8", "mxfp8"), ("int8/row", "int8"),
    ("rf8/row", "rf8/row"), ("nf4/row", "nf4/1x64"),
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pair", SCHEMES)
def test_a_launch_is_found_that_fits(target: str, pair: tuple[str, str]) -> None:
    for groups, rows, cols, depth in ((1, 1, 1, 1), (64, 256, 7168, 2048), (8, 65536, 4096, 4096)):
        for turned in (False, True):
            work = work_of(groups, rows, cols, depth, parse(pair[0]), parse(pair[1]), turned, target)
            best = min(candidates(work, target), key=lambda c: seconds(c, work, target))
            assert 0 < seconds(best, work, target) < float("inf")
            assert (best.block_m + best.block_n) * best.block_k * best.num_stages <= gpu_of(target).shared
            assert best.block_k <= PROMOTE_EVERY
            assert best.block_k == 32 or work.columns == 0 or best.block_k <= work.columns
            assert promotes(work, target) != "wgmma" or best.block_k == PROMOTE_EVERY


def test_classes_of_shapes_keep_schemes_and_views_apart() -> None:
    rows, blocks = (parse(scheme) for scheme in ("e4m3fn/row", "e4m3fn/1x128"))
    works = [
        work_of(8, 100, 64, 64, a, b, turned, "sm_90")
        for a, b, turned in ((rows, rows, False), (rows, rows, True), (blocks, rows, False), (blocks, blocks, False))
    ]
    assert len({key_of(work, "grouped_gemm") for work in works}) == 4
    assert key_of(works[0], "g") == key_of(work_of(8, 104, 64, 64, rows, rows, False, "sm_90"), "g")


WRONG: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"b": torch.zeros((5, 64), dtype=torch.uint8)}, ValueError, "b: got shape (5, 64), accepted: [groups, N, K]"),
    ({"b": torch.zeros((0, 5, 64), dtype=torch.uint8)}, ValueError, "of at least one group"),
    ({"b_scale": torch.ones((2, 5, 1))}, ValueError, "b_scale: got shape (2, 5, 1), accepted: [3, ...]"),
    ({"a": torch.zeros((9, 64))}, TypeError, "a: e4m3fn/row has uint8 codes, got float32"),
    ({"a_scale": torch.ones((8, 1))}, ValueError, "a_scale: e4m3fn/row on codes of shape (9, 64)"),
    ({"offsets": torch.tensor([4, 4, 9])}, TypeError, "offsets: got int64, accepted: int32"),
    ({"offsets": torch.tensor([4, 9], dtype=torch.int32)}, ValueError, "offsets: got shape (2,), accepted for 3"),
    ({"offsets": torch.tensor([4, 3, 9], dtype=torch.int32)}, ValueError, "got 3 for the end of group 1, accepted: 4"),
    ({"offsets": torch.tensor([4, 4, 10], dtype=torch.int32)}, ValueError, "end of group 2, accepted: 4 to 9"),
    ({"offsets": torch.zeros(3, dtype=torch.int32, device="meta")}, ValueError, "offsets: is on meta, a on cpu"),
    ({"out_dtype": torch.float64}, TypeError, "out_dtype: expected float32"),
    ({"a_scheme": "e4m3fn/4x16", "a_scale": torch.ones((3, 4))}, ValueError, "a_scheme: e4m3fn/4x16 has scales of sev"),
)  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "text"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_wrong_arguments_are_refused_by_name(changes: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        GROUPED_GEMM.implementation("torch")(*arguments("e4m3fn/row", "e4m3fn/row", **changes))
    assert text in str(caught.value)
