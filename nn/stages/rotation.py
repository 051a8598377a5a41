"""Hadamard rotations in torch, the bits of `narrowgauge.formats.hadamard`.

`torch.ops.narrowgauge.rotate(x, size, sign) -> Tensor`: blocks of `size` along the last axis, float32, the axis filled
up with zeros to whole blocks; `rotate_back` is its inverse. Both are dense, column-major where x is a column-major
matrix. Each is the other's gradient. One call to compilers: the passes of all distances, fused, would read every
value of a block for each of them.

On a CPU a chunk of blocks lies in the caches with the elements of one place next to each other, so that every pass is
additions of long vectors.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from narrowgauge.formats import Scheme
from narrowgauge.formats.hadamard import FIXED_SIGNS, signs
from narrowgauge.formats.stages import Draw, Rotation
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.kernels.tiles import is_column_major

CHUNK_ELEMENTS = 1 << 18
"""Elements that all passes work on at a time."""
LONG_ROW = 32
"""Rows of a column-major matrix from which on its own layout makes vectors long enough."""


@lru_cache(maxsize=512)
def _signs(size: int, seed: int, offset: int, device: torch.device) -> Tensor:
    """Kept for the other operand of the product."""
    return torch.from_numpy(signs(size, seed, offset)).to(device)


def sign_vector(stage: Rotation, draw: Draw, device: torch.device) -> Tensor | None:
    """The signs of one product, float32 [size], None without signs."""
    if stage.kind == "none":
        return None
    return _signs(stage.size, *((draw.seed, draw.shared) if stage.random else FIXED_SIGNS), device)


def rotated(x: Tensor, size: int, sign: Tensor | None) -> Tensor:
    """Blocks of `size` along the last axis rotated; float32, the axis filled up with zeros to whole blocks."""
    if _is_simple(x):
        return _transform(x, size, sign, None)
    result: Tensor = torch.ops.narrowgauge.rotate(x, size, sign)
    return result


def rotated_back(y: Tensor, size: int, sign: Tensor | None, columns: int) -> Tensor:
    """The inverse of `rotated`, cut to `columns`."""
    if _is_simple(y):
        return _transform(y, size, None, sign)[..., :columns]
    result: Tensor = torch.ops.narrowgauge.rotate_back(y, size, sign)
    return result[..., :columns]


def _is_simple(x: Tensor) -> bool:
    """Whether nobody looks on: no compiler, no autograd, whose dispatch costs as much as a small rotation."""
    return not torch.compiler.is_compiling() and not (x.requires_grad and torch.is_grad_enabled())


def rotation_before(stage: Rotation, x: Tensor, scheme: Scheme, draw: Draw) -> tuple[Tensor, None]:
    """x in the rotated basis."""
    return rotated(x, stage.size, sign_vector(stage, draw, x.device)), None


def _turned(x: Tensor) -> bool:
    """Whether the memory of x runs along its rows, and the work does."""
    return is_column_major(x) and x.shape[0] >= LONG_ROW


def _empty(x: Tensor, size: int) -> Tensor:
    """Where the result for x goes."""
    columns = -(-x.shape[-1] // size) * size
    if _turned(x):
        return x.new_empty((columns, x.shape[0]), dtype=torch.float32).t()
    return x.new_empty((*x.shape[:-1], columns), dtype=torch.float32)


def _in_blocks(x: Tensor, size: int, turned: bool) -> Tensor:
    """A view [blocks, size, vectors]: all that share a place in their blocks stand in one vector."""
    return x.t().view(-1, size, x.shape[0]) if turned else x.view(1, -1, size).transpose(1, 2)


def _transform(x: Tensor, size: int, before: Tensor | None, after: Tensor | None) -> Tensor:
    """The blocks of x times the signs `before`, transformed, times the signs `after`."""
    out, turned = _empty(x, size), _turned(x)
    if not out.numel():
        return out
    x, missing = x.float(), out.shape[-1] - x.shape[-1]
    if turned:
        x = pad(x.t(), (0, 0, 0, missing)).t() if missing else x
    else:
        x = pad(x, (0, missing)) if missing else x.contiguous()
    source, target = _in_blocks(x, size, turned), _in_blocks(out, size, turned)
    blocks, _, vectors = source.shape
    most = CHUNK_ELEMENTS if x.device.type == "cpu" else x.numel()
    across = min(vectors, max(1, most // size))
    down = min(blocks, max(1, most // (size * across)))
    memory = x.new_empty((2, down * size * across))
    for top in range(0, blocks, down):
        for left in range(0, vectors, across):
            place = (top if down == 1 else slice(top, top + down), slice(None), slice(left, left + across))
            part, into = source[place], target[place]
            values, other = (row[: part.numel()].view(part.shape) for row in memory)
            if turned:
                # Read and written where they are: long rows.
                begin = part if before is None else torch.mul(part, before.unsqueeze(1), out=values)
                torch.mul(_passes(begin, other, values), 1.0 / sqrt(size), out=into)
            else:
                begin = values.copy_(part) if before is None else values.copy_(part).mul_(before.unsqueeze(1))
                # As a copy of a transposed matrix into a dense one, which torch does in tiles.
                into.t().copy_(_passes(begin, other, values).mul_(1.0 / sqrt(size)).t())
            if after is not None:
                into.mul_(after.unsqueeze(1))
    return out


def _passes(values: Tensor, other: Tensor, third: Tensor) -> Tensor:
    """Sums and differences at distances 1, 2, 4 … over the second axis from the end: in `other` or `third`, in turns.
    `values` are only read; third may be the same memory."""
    size, vectors = values.shape[-2:]
    distance = 1
    while distance < size:
        (first, second), (total, rest) = (x.view(-1, 2, distance, vectors).unbind(1) for x in (values, other))
        torch.add(first, second, out=total)
        torch.sub(first, second, out=rest)
        values, other, third, distance = other, third, other, 2 * distance
    return values


def _rotate(x: Tensor, size: int, sign: Tensor | None) -> Tensor:
    return _transform(x, size, sign, None)


def _rotate_back(x: Tensor, size: int, sign: Tensor | None) -> Tensor:
    return _transform(x, size, None, sign)


def _keep(ctx: Any, inputs: tuple[Tensor, int, Tensor | None], output: Tensor) -> None:
    x, ctx.size, sign = inputs
    ctx.columns, ctx.dtype = x.shape[-1], x.dtype
    ctx.save_for_backward(sign)


def _gradient(op: Any) -> Any:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (sign,) = ctx.saved_tensors
        return op(grad, ctx.size, sign)[..., : ctx.columns].to(ctx.dtype), None, None

    return backward


def _fake(x: Tensor, size: int, sign: Tensor | None) -> Tensor:
    return _empty(x, size)


for _name, _implementation in (("rotate", _rotate), ("rotate_back", _rotate_back)):
    LIBRARY.define(f"{_name}(Tensor x, int size, Tensor? sign) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"narrowgauge::{_name}", _fake, lib=LIBRARY)
for _name, _inverse in (("rotate", "rotate_back"), ("rotate_back", "rotate")):
    torch.library.register_autograd(
        f"narrowgauge::{_name}",
        _gradient(getattr(torch.ops.narrowgauge, _inverse)),
        setup_context=_keep,
        lib=LIBRARY,
    )
