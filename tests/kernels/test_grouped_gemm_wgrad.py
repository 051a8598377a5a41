"""grouped_gemm_wgrad beside the conformance suite: equality with the products one by one, empty groups, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels.gemm import GEMM
from narrowgauge.kernels.grouped_gemm_wgrad import GROUPED_GEMM_WGRAD

IMPLEMENTATIONS = ("torch", "triton")


def arguments(**changes: Any) -> list[Any]:
    """A valid call, with some arguments changed: codes 0 to 63 of e4m3fn, scales that differ by row and group."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 64, (9, rows), generator=generator, dtype=torch.uint8).t() for rows in (6, 5))
    call = {
        "a": a, "a_scale": torch.rand((3, 6, 1), generator=generator) + 0.5, "b": b,
        "b_scale": torch.rand((3, 5, 1), generator=generator) + 0.5,
        "offsets": torch.tensor((4, 4, 9), dtype=torch.int32), "a_scheme": "e4m3fn/row", "b_scheme": "e4m3fn/row",
        "out_dtype": torch.float32,
    }  # fmt: skip
    assert changes.keys() <= call.keys()
    return list({**call, **changes}.values())


def run(implementation: str, call: list[Any]) -> Tensor:
    with np.errstate(all="ignore"):
        out: Tensor = GROUPED_GEMM_WGRAD.implementation(implementation)(*call)
    return out


@pytest.fixture(autouse=True)
def _cpu_only(device: torch.device) -> None:
    if device.type != "cpu":
        pytest.skip("the conformance suite runs grouped_gemm_wgrad on other devices")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_each_group_is_the_product_over_its_columns(implementation: str) -> None:
    a, a_scale, b, b_scale, *rest = call = arguments()
    out = run(implementation, call)
    assert out.shape == (3, 6, 5)
    for group, (start, end) in enumerate(((0, 4), (4, 4), (4, 9))):
        one = (a[:, start:end], a_scale[group], b[:, start:end], b_scale[group], *rest[1:3], None, torch.float32)
        assert ((out[group].double() - GEMM.reference(*one)).abs() <= GEMM.bound.tolerance(*one)).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_empty_group_is_zero_whatever_its_scales(implementation: str, poisoned_empty: None) -> None:
    call = arguments()
    call[1][1] = float("nan")
    out = run(implementation, call)
    assert (out[1] == 0).all()
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_columns_behind_the_last_group_are_left_out(implementation: str) -> None:
    call = arguments(offsets=torch.tensor((4, 4, 7), dtype=torch.int32))
    expected = run(implementation, call)
    call[0] = call[0].clone()
    call[0][:, 7:] = 0x7F  # NaN
    assert torch.equal(run(implementation, call), expected)


def test_ends_that_descend_or_go_too_far_are_clipped_by_the_kernel() -> None:
    wild = arguments(offsets=torch.tensor((6, 3, 12), dtype=torch.int32))
    clipped = arguments(offsets=torch.tensor((6, 6, 9), dtype=torch.int32))
    assert torch.equal(run("triton", wild), run("triton", clipped))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_one_scale_for_the_tensor_is_that_of_every_row(implementation: str) -> None:
    rows = arguments(a_scale=torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1).expand(3, 6, 1))
    whole = arguments(a_scale=torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1), a_scheme="e4m3fn")
    assert torch.equal(run(implementation, rows), run(implementation, whole))


WRONG: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"offsets": torch.zeros(0, dtype=torch.int32)}, ValueError, "offsets: got no group, accepted: at least one"),
    ({"offsets": torch.zeros(3)}, TypeError, "offsets: got float32, accepted: int32"),
    ({"offsets": torch.tensor((4, 3, 9), dtype=torch.int32)}, ValueError, "offsets: got 3 for the end of group 1"),
    ({"a_scale": torch.ones((6, 1))}, ValueError, "a_scale: got shape (6, 1), accepted: [3, ...]"),
    ({"b_scale": torch.ones((3, 1, 1))}, ValueError, "b_scale: e4m3fn/row on codes of shape (5, 9) has scales of"),
    ({"a": torch.zeros((6, 8), dtype=torch.uint8)}, ValueError, "b: expected [N, 8] for a of shape (6, 8)"),
    (
        {"a_scheme": "e4m3fn/1x3", "a_scale": torch.ones((3, 6, 3))},
        ValueError,
        "a_scheme: e4m3fn/1x3 has scales of blocks, which may lie in two groups; accepted: tensor, row",
    ),
)


@pytest.mark.parametrize(("changes", "kind", "text"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_wrong_arguments_are_refused_by_name(changes: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        GROUPED_GEMM_WGRAD.implementation("torch")(*arguments(**changes))
    assert text in str(caught.value)
