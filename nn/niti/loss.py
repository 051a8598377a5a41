"""The gradient of a cross entropy in integers (Wang et al., arXiv 2009.13108, section 3.4).

    softmax in powers of two: s = z · log2 e,  log2 e ≈ 47274 / 2^15,  e^z ≈ 2^(s - max s + 10) - 1, s - max s >= -10
    where exponents are so small that every s would be 0: e^z ≈ 1 + z + z² / 2, times 2^(1 - 2 exponent)
    p = 2^11 · e^z / Σ e^z,  gradient = p - 2^11 · [z is the label's], then four bits fewer

The last four bits go by pseudo-stochastic rounding. The gradient's exponent is 0: a scale that all gradients share has
no meaning, since an update is a number of bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.nn.niti.shift import pseudo_stochastic_shift
from narrowgauge.nn.niti.tensor import LARGEST, IntTensor

LOG2_E = 47274
LOG2_E_BITS = 15
DEEPEST = 10
ONE_BITS = 11
DROPPED_BITS = 4
SMALL_EXPONENT = -7
WIDEST = 20
"""Exponents beyond ±WIDEST act like it: every softmax is that of the largest, or uniform."""


def loss_gradient(logits: IntTensor, labels: Tensor) -> IntTensor:
    """softmax - one-hot of logits [T, classes] and labels [T] (integers), int8 codes, exponent 0.

    ValueError for labels of another shape.
    """
    codes = logits.codes.to(torch.int64)
    if codes.dim() != 2 or labels.shape != codes.shape[:1]:
        raise ValueError(f"labels: expected [T] for logits [T, classes], got {tuple(labels.shape)} and "
                         f"{tuple(codes.shape)}")  # fmt: skip
    exponent = max(min(logits.exponent, WIDEST), -WIDEST)
    if exponent > SMALL_EXPONENT:
        product, drop = codes * LOG2_E, LOG2_E_BITS - exponent
        scaled = product >> drop if drop >= 0 else product << -drop
        above = (scaled - scaled.amax(1, keepdim=True) + DEEPEST).clamp(min=0)
        powers = torch.bitwise_left_shift(torch.ones_like(above), above) - 1
    else:
        powers = (1 << (1 - 2 * exponent)) + (codes << (1 - exponent)) + codes * codes
    shares = (powers << ONE_BITS).div(powers.sum(1, keepdim=True), rounding_mode="floor")
    # The label's gets what makes the row's sum zero.
    gradient = shares.scatter_add(1, labels.unsqueeze(1), -shares.sum(1, keepdim=True))
    return IntTensor(pseudo_stochastic_shift(gradient, DROPPED_BITS).clamp(-LARGEST, LARGEST).to(torch.int8), 0)
