"""Double quantisation of scales (QLoRA, arXiv 2305.14314 §3): the scales of a weight's blocks as 8-bit codes.

    mean  = mean of all scales;   d = scale - mean                       float32
    codes = dynamic8 codes of d, in runs of 256 scales in memory order;  second = max |d| of each run
    scale ≈ decode(codes) · second + mean                                one float32 product, one float32 sum

Blocks of 64 weights then hold 8/64 + 32/(64·256) = 0.127 bits of scale a weight instead of 0.5. The map dynamic8 has
no -1 (formats/dynamic_tree.py), as in bitsandbytes. The scale of a block of zeros counts as 0 in the mean; its weights
decode to 0 whatever the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import get
from narrowgauge.kernels._tables_torch import decode
from narrowgauge.kernels.tensor import quantize_raw

FORMAT = "dynamic8"
RUN = 256
"""Scales that share a second scale."""


def second_count(scales: int) -> int:
    """How many second scales that many scales have."""
    return -(-scales // RUN)


def double_encoded(scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(codes, second, mean) of float32 scales of any shape: uint8 of that shape, float32 [runs], float32 []."""
    mean = scale.mean() if scale.numel() else scale.new_zeros(())
    codes, second, _ = quantize_raw((scale - mean).reshape(1, -1), f"{FORMAT}/1x{RUN}")
    return codes.view(scale.shape), second.reshape(-1), mean


def double_decoded(codes: Tensor, second: Tensor, mean: Tensor, number: Tensor | None = None) -> Tensor:
    """float32 scales of `codes`. number: which scales of the weight they are, of the shape of codes; None: all."""
    values = decode(codes, get(FORMAT))
    if number is None:
        number = torch.arange(codes.numel(), device=codes.device)
    return values.mul_(second[number // RUN].view(codes.shape)).add_(mean)
