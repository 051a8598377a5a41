"""2^x of the numbers of groups, whose bits do not depend on where a group stands among others.

torch.exp2 on a CPU calculates the last elements of a tensor by other instructions than those before them, an ulp apart;
a shard of a parameter has other last groups than the whole, and is to have the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WHOLE = 64
"""A multiple of what the widest instructions take at once."""


def exp2(x: Tensor) -> Tensor:
    """2^x, float32 of any shape; the result may be overwritten."""
    if torch.compiler.is_compiling():
        return torch.exp2(x)
    whole = torch.nn.functional.pad(x.reshape(-1), (0, -x.numel() % _WHOLE))
    return torch.exp2(whole)[: x.numel()].view(x.shape)
