"""Other people's optimizers, where they are installed: torchao's and bitsandbytes' AdamW with compressed states.

They are timed on the first tensors of the model alone, because their CPU paths take 14 to 53 times as long as torch's
fused step; a step costs per parameter what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch.nn import Parameter
from torch.optim import Optimizer

from narrowgauge.bench.peer import installed

MakeOptimizer = Callable[[Sequence[Parameter]], Optimizer]
PART = 9
"""Tensors of the model that a peer steps: one block."""


def _torchao(name: str) -> MakeOptimizer:
    def make(params: Sequence[Parameter]) -> Optimizer:
        installed("torchao")
        optimizer: Optimizer = getattr(installed("torchao.optim"), name)(params)
        return optimizer

    return make


def _bitsandbytes(params: Sequence[Parameter]) -> Optimizer:
    package = installed("bitsandbytes")
    optimizer: Optimizer = package.optim.AdamW8bit(params)
    return optimizer


PEERS: Mapping[str, MakeOptimizer] = {
    "torchao AdamW8bit": _torchao("AdamW8bit"),
    "torchao AdamW4bit": _torchao("AdamW4bit"),
    "torchao AdamWFp8": _torchao("AdamWFp8"),
    "bitsandbytes AdamW8bit": _bitsandbytes,
}
"""Name → optimizer of parameters; ValueError where the package is not installed or does not load."""
