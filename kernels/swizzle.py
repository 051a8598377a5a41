"""swizzle_scales, unswizzle_scales: block scales in the order in which matrix units read them, and back.

`torch.ops.narrowgauge.swizzle_scales(scale, layout) -> Tensor`
`torch.ops.narrowgauge.unswizzle_scales(scale, rows, cols, layout) -> Tensor`
  scale     uint8 [R, C], any strides: E8M0 or E4M3 codes, one of every block along the row; for the inverse the
            uint8 [n] bytes that swizzle_scales gives for `rows` x `cols`
  layout    "128x4" or "gfx950"
The matrix is padded with zeros to whole tiles, of which one follows the other, row of tiles after row of tiles:

  "128x4"   R to a multiple of 128, C of 4. Tile: 128 x 4 scales, 512 bytes; scale (r, c) is at
            (r mod 32) · 16 + (r div 32) · 4 + c. What cuBLASLt takes and tcgen05.mma's block_scale reads.
            Source: NVIDIA cuBLAS documentation, "1D Block Scaling Factors Layout".
  "gfx950"  R to a multiple of 256, C of 8. Tile: 32 x 8 scales, 256 bytes; scale (r, c) is at
            (c mod 4) · 64 + (r mod 16) · 4 + (c div 4) · 2 + (r div 16). What the v_mfma_scale kernels of CDNA4 take:
            one dword for each lane. Source: AMD rocm-libraries, mxDataGenerator (PreSwizzle).

r and c count inside of the tile. Every implementation gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.kernels._swizzle_triton import PADDED, TILES, constants_of, launch, swizzle_kernel
from narrowgauge.kernels.op import CompileCase, Cost, Exact, Op, Sample, register

LAYOUTS = tuple(TILES)


def padded_shape(rows: int, cols: int, layout: str) -> tuple[int, int]:
    """Rows and columns of the padded matrix. ValueError for an unknown layout or negative sizes."""
    if layout not in PADDED:
        raise ValueError(f"layout: got {layout!r}, accepted: {', '.join(map(repr, LAYOUTS))}")
    if rows < 0 or cols < 0:
        raise ValueError(f"{'rows' if rows < 0 else 'cols'}: got {min(rows, cols)}, accepted: 0 or more")
    high, wide = PADDED[layout]
    return -(-rows // high) * high, -(-cols // wide) * wide


def _check_scale(scale: Tensor, layout: str) -> tuple[int, int]:
    if scale.dtype != torch.uint8:
        raise TypeError(f"scale: got {str(scale.dtype).removeprefix('torch.')}, accepted: uint8 scale codes")
    if scale.dim() != 2:
        raise ValueError(f"scale: got shape {tuple(scale.shape)}, accepted: a matrix [rows, blocks along the row]")
    return padded_shape(scale.shape[0], scale.shape[1], layout)


def _check_tiles(scale: Tensor, rows: int, cols: int, layout: str) -> tuple[int, int]:
    if scale.dtype != torch.uint8:
        raise TypeError(f"scale: got {str(scale.dtype).removeprefix('torch.')}, accepted: uint8 scale codes")
    high, wide = padded_shape(rows, cols, layout)
    if tuple(scale.shape) != (high * wide,):
        raise ValueError(
            f"scale: got shape {tuple(scale.shape)}, accepted for {rows} x {cols} scales in layout {layout!r}: "
            f"({high * wide},)"
        )
    return high, wide


def swizzle_scales_torch(scale: Tensor, layout: str) -> Tensor:
    """The CPU implementation: one permuted copy."""
    high, wide = _check_scale(scale, layout)
    rows, cols = scale.shape
    if (high, wide) != (rows, cols):
        scale = torch.nn.functional.pad(scale, (0, wide - cols, 0, high - rows))
    if high * wide == 0:
        return scale.new_empty((0,))
    if layout == "128x4":  # the four scales of a row stay together: a word
        words = scale.contiguous().view(torch.int32).unflatten(0, (-1, 4, 32))
        return words.permute(0, 3, 2, 1).contiguous().view(torch.uint8).flatten()
    return scale.unflatten(0, (-1, 2, 16)).unflatten(3, (-1, 2, 4)).permute(0, 3, 5, 2, 4, 1).flatten()


def unswizzle_scales_torch(scale: Tensor, rows: int, cols: int, layout: str) -> Tensor:
    """The CPU implementation: one permuted copy, and one more where the matrix is padded."""
    high, wide = _check_tiles(scale, rows, cols, layout)
    if rows * cols == 0:
        return scale.new_empty((rows, cols))
    if layout == "128x4":
        words = scale.contiguous().view(torch.int32).view(high // 128, wide // 4, 32, 4)
        matrix = words.permute(0, 3, 2, 1).reshape(high, wide // 4).view(torch.uint8)
    else:
        tiles = scale.reshape(high // 32, wide // 8, 4, 16, 2, 2)
        matrix = tiles.permute(0, 5, 3, 1, 4, 2).reshape(high, wide)
    return matrix[:rows, :cols].clone(memory_format=torch.contiguous_format)


def swizzle_scales_triton(scale: Tensor, layout: str) -> Tensor:
    """The GPU implementation; on CPU tensors it runs in Triton's interpreter."""
    padded = _check_scale(scale, layout)
    out = scale.new_empty((padded[0] * padded[1],))
    launch(scale, out, padded, layout, inverse=False)
    return out


def unswizzle_scales_triton(scale: Tensor, rows: int, cols: int, layout: str) -> Tensor:
    """The GPU implementation; on CPU tensors it runs in Triton's interpreter."""
    padded = _check_tiles(scale, rows, cols, layout)
    out = scale.new_empty((rows, cols))
    launch(out, scale.contiguous(), padded, layout, inverse=True)
    return out


def offsets(rows: int, cols: int, layout: str) -> NDArray[np.int64]:
    """Where the scale of each row and column is among the bytes, [rows, cols]: the formula of the layout."""
    wide = padded_shape(rows, cols, layout)[1]
    tile_r, tile_c = TILES[layout]
    r, c = np.arange(rows, dtype=np.int64)[:, None], np.arange(cols, dtype=np.int64)[None, :]
    start = (r // tile_r) * (wide // tile_c) + c // tile_c
    r, c = r % tile_r, c % tile_c
    if layout == "128x4":
        return start * 512 + (r % 32) * 16 + (r // 32) * 4 + c
    return start * 256 + (c % 4) * 64 + (r % 16) * 4 + (c // 4) * 2 + r // 16


def _reference(scale: Tensor, layout: str) -> Tensor:
    high, wide = _check_scale(scale, layout)
    out = np.zeros(high * wide, np.uint8)
    out[offsets(scale.shape[0], scale.shape[1], layout)] = scale.cpu().numpy()
    return torch.from_numpy(out)


def _inverse_reference(scale: Tensor, rows: int, cols: int, layout: str) -> Tensor:
    _check_tiles(scale, rows, cols, layout)
    return torch.from_numpy(scale.cpu().numpy()[offsets(rows, cols, layout)])


def _fake(scale: Tensor, layout: str) -> Tensor:
    high, wide = _check_scale(scale, layout)
    return scale.new_empty((high * wide,))


def _inverse_fake(scale: Tensor, rows: int, cols: int, layout: str) -> Tensor:
    _check_tiles(scale, rows, cols, layout)
    return scale.new_empty((rows, cols))


_SHAPES = ((1, 1), (128, 4), (129, 5), (127, 3), (256, 8), (300, 37), (33, 130), (32, 8), (0, 4), (7, 0), (640, 64))


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    for layout in LAYOUTS:
        for rows, cols in _SHAPES:
            scale = torch.from_numpy(rng.integers(0, 256, (rows, cols), dtype=np.uint8)).to(device)
            yield Sample(f"{layout} {rows}x{cols}", (scale, layout))
        scale = torch.from_numpy(rng.integers(0, 256, (70, 260), dtype=np.uint8)).to(device)
        yield Sample(f"{layout} transposed", (scale.t(), layout))
        yield Sample(f"{layout} strided", (scale[::2, 3:200:3], layout))


def _inverse_samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    for sample in _samples(rng, "cpu"):
        scale, layout = sample.args
        tiles = _reference(scale, layout).to(device)
        yield Sample(sample.name, (tiles, scale.shape[0], scale.shape[1], layout))
    noise = torch.from_numpy(rng.integers(0, 256, 2048, dtype=np.uint8)).to(device)
    yield Sample("padding that is not zero", (noise[::2], 100, 7, "128x4"))


def _cost(scale: Tensor, layout: str) -> Cost:
    high, wide = padded_shape(scale.shape[0], scale.shape[1], layout)
    return Cost(flops=0.0, bytes=float(scale.numel() + high * wide))


def _inverse_cost(scale: Tensor, rows: int, cols: int, layout: str) -> Cost:
    return Cost(flops=0.0, bytes=float(2 * rows * cols))


def _case(layout: str, inverse: bool) -> CompileCase:
    name = f"{'unswizzle' if inverse else 'swizzle'}_scales {layout}"
    pointers = {"rows_ptr": "*u8", "tiles_ptr": "*u8"}
    sizes = dict.fromkeys(("rows", "cols", "padded_cols", "stride_r"), "i32")
    constants = {**constants_of(layout, inverse, 128), "stride_c": 1}
    return CompileCase(name, swizzle_kernel, pointers | sizes, constants)


SWIZZLE = register(
    Op(
        name="swizzle_scales",
        schema="(Tensor scale, str layout) -> Tensor",
        reference=_reference,
        torch_impl=swizzle_scales_torch,
        triton_impl=swizzle_scales_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=Exact(),
        compile_cases=lambda: (_case(layout, False) for layout in LAYOUTS),
    )
)
UNSWIZZLE = register(
    Op(
        name="unswizzle_scales",
        schema="(Tensor scale, int rows, int cols, str layout) -> Tensor",
        reference=_inverse_reference,
        torch_impl=unswizzle_scales_torch,
        triton_impl=unswizzle_scales_triton,
        fake=_inverse_fake,
        samples=_inverse_samples,
        cost=_inverse_cost,
        bound=Exact(),
        compile_cases=lambda: (_case(layout, True) for layout in LAYOUTS),
    )
)
