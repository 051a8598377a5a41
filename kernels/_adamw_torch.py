"""adamw_step on the CPU: block by block through the cache, decode, torch's own fused AdamW, encode."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.kernels._moments_torch import Part, Scratch, decode_block, encode_block, parts
from narrowgauge.kernels.moments import MomentCodec

CHUNK_ELEMENTS = 1 << 18
"""Elements of one block; what a pass over it touches fits in the second-level caches of two cores."""


def _as_float32(part: Tensor, buffer: Tensor) -> Tensor:
    """`part` itself, or its float32 copy in `buffer`."""
    return part if part.dtype is torch.float32 else buffer[: part.numel()].copy_(part)


def run(
    p: Tensor, g: Tensor, m: Tensor, m_scale: Tensor | None, v: Tensor, v_scale: Tensor | None,
    first: MomentCodec, second: MomentCodec, step: int, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, maximize: bool,
) -> None:  # fmt: skip
    """One step for flat, contiguous p and g; the other arguments are those of the op, checked."""
    count = p.numel()
    scratch = Scratch(min(CHUNK_ELEMENTS, count))
    stored = (first, m.view(-1), m_scale, scratch.m), (second, v.view(-1), v_scale, scratch.v)
    time = torch.tensor(float(step))
    for start in range(0, count, CHUNK_ELEMENTS):
        stop = min(start + CHUNK_ELEMENTS, count)
        moments: list[Tensor] = []
        coded: list[Part] = []
        for codec, codes, scale, buffer in stored:
            if codec.dtype is torch.float32:
                moments.append(codes[start:stop])
                continue
            moments.append(buffer[: stop - start])
            coded += parts(codec, codes, codes if scale is None else scale, buffer, start, stop)
        for part in coded:
            decode_block(*part, scratch)
        wide_p = _as_float32(p[start:stop], scratch.p)
        # One pass over operands that the cache holds, and the bits of torch.optim.AdamW(fused=True).
        torch._fused_adamw_(
            [wide_p], [_as_float32(g[start:stop], scratch.g)], moments[:1], moments[1:], [], [time],
            lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay, eps=eps, amsgrad=False, maximize=maximize,
        )  # fmt: skip
        for part in coded:
            encode_block(*part, scratch)
        if p.dtype is not torch.float32:
            p[start:stop].copy_(wide_p)
