"""Tiled layouts of scales beside the conformance suite: published examples, inverses, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from narrowgauge.kernels.swizzle import LAYOUTS, SWIZZLE, UNSWIZZLE, offsets, padded_shape


def counted(rows: int, cols: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(rows).integers(0, 256, (rows, cols), dtype=np.uint8))


def test_rows_of_32_apart_share_16_bytes_of_the_128x4_tile() -> None:
    tile = np.arange(512).reshape(128, 4)
    order = np.empty(512, np.int64)
    order[offsets(128, 4, "128x4")] = tile
    assert order[:20].tolist() == [
        *(0, 1, 2, 3), *(128, 129, 130, 131), *(256, 257, 258, 259), *(384, 385, 386, 387), *(4, 5, 6, 7),
    ]  # fmt: skip


def test_a_lane_of_gfx950_finds_its_four_scales_in_one_dword() -> None:
    order = np.empty((256 * 8,), np.int64)
    order[offsets(256, 8, "gfx950")] = np.arange(256 * 8).reshape(256, 8)
    # Row and column of the first lanes: 16 rows apart, then 4 columns apart.
    assert [divmod(int(i), 8) for i in order[:5]] == [(0, 0), (16, 0), (0, 4), (16, 4), (1, 0)]
    assert [divmod(int(i), 8) for i in order[64:66]] == [(0, 1), (16, 1)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(256, 8), (257, 9), (1, 1), (100, 3)])
def test_every_scale_has_a_place_of_its_own(layout: str, shape: tuple[int, int]) -> None:
    places = offsets(*shape, layout)
    assert len(np.unique(places)) == places.size
    high, wide = padded_shape(*shape, layout)
    assert places.min() >= 0
    assert places.max() < high * wide


@pytest.mark.parametrize("implementation", ["torch", "triton"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_inverse_gives_the_scales_back(layout: str, implementation: str, device: torch.device) -> None:
    if device.type != "cpu" and implementation == "torch":
        pytest.skip("the torch implementation serves the CPU")
    for rows, cols in ((1, 1), (5, 300), (300, 5), (256, 16)):
        scale = counted(rows, cols).to(device)
        tiles = SWIZZLE.implementation(implementation)(scale, layout)
        again = UNSWIZZLE.implementation(implementation)(tiles, rows, cols, layout)
        assert torch.equal(again, scale)
        assert again.is_contiguous()


def test_128x4_is_the_layout_of_torchao() -> None:
    utils = pytest.importorskip("torchao.prototype.mx_formats.utils")
    for rows, cols in ((128, 4), (300, 37), (1, 1), (512, 64)):
        scale = counted(rows, cols)
        assert torch.equal(SWIZZLE(scale, "128x4"), utils.to_blocked(scale, use_triton_kernel=False).flatten())


WRONG: tuple[tuple[Any, tuple[Any, ...], type[Exception], str], ...] = (
    (SWIZZLE, (counted(3, 3).float(), "128x4"), TypeError, "scale: got float32, accepted: uint8"),
    (SWIZZLE, (counted(3, 3)[0], "128x4"), ValueError, "scale: got shape (3,), accepted: a matrix"),
    (SWIZZLE, (counted(3, 3), "4x128"), ValueError, "layout: got '4x128', accepted: '128x4', 'gfx950'"),
    (UNSWIZZLE, (counted(3, 3), 3, 3, "128x4"), ValueError, "accepted for 3 x 3 scales in layout '128x4': (512,)"),
    (UNSWIZZLE, (counted(1, 512)[0].int(), 3, 3, "128x4"), TypeError, "scale: got int32, accepted: uint8"),
    (UNSWIZZLE, (counted(1, 512)[0], -3, 3, "128x4"), ValueError, "rows: got -3, accepted: 0 or more"),
)


@pytest.mark.parametrize(("op", "args", "kind", "text"), WRONG)
def test_wrong_arguments_are_refused_by_name(op: Any, args: tuple[Any, ...], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        op.implementation("torch")(*args)
    assert text in str(caught.value)
