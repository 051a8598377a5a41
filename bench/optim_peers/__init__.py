"""Other people's codecs of optimizer states and weights, modelled in numpy with the defects they were published with.

Each is a `StateCodec` or a `WeightCodec` of `narrowgauge.numerics`, made from the paper or the released code that its
module names, so that all can be compared where neither a GPU nor their packages are at hand. What is true of the code
and not of the paper is kept, and said, in the module.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from narrowgauge.bench.optim_peers.coat import KERNEL_RANGE, PAPER_RANGE, Coat
from narrowgauge.bench.optim_peers.dynamic import Table4, Table8
from narrowgauge.bench.optim_peers.flash import Flash
from narrowgauge.bench.optim_peers.fp8 import GroupedE4M3, PerTensor
from narrowgauge.bench.optim_peers.log_nearest import LogNearest
from narrowgauge.bench.optim_peers.solo import Solo
from narrowgauge.bench.optim_peers.weights import Bf16Weight, SplitWeight
from narrowgauge.bench.optim_peers.wide import Bf16
from narrowgauge.numerics.optimizers.protocol import StateCodec, WeightCodec

_STATES = (
    Coat("COAT, released kernel", released=True, target=KERNEL_RANGE),
    Coat("COAT kernel, paper's range", released=True, target=PAPER_RANGE),
    Coat("COAT, paper's formula", released=False, target=PAPER_RANGE),
    GroupedE4M3("E4M3, groups of 128", 128),
    GroupedE4M3("torchao FP8", 256),
    Table8("torchao 8-bit", keeps_sign=False),
    Table8("bitsandbytes 8-bit", keeps_sign=True),
    Flash("FlashOptim", np.float16),
    Flash("FlashOptim, float32 scales", np.float32),
    PerTensor(),
    Bf16("bfloat16, to nearest", stochastic=False),
    Bf16("bfloat16, stochastic", stochastic=True),
    Table4("torchao 4-bit", rank_one=False),
    Table4("lpmm 4-bit", rank_one=True),
    Solo(),
)

STATE_PEERS: Mapping[str, StateCodec] = MappingProxyType({peer.name: peer for peer in _STATES})
"""Name → codec of both moments."""

WEIGHT_CONTROL = "bfloat16 + int8, stochastic"
"""The model of this package's own codec of weights, among `WEIGHT_PEERS` for comparison."""
WEIGHT_PEERS: Mapping[str, WeightCodec] = MappingProxyType(
    {
        peer.name: peer
        for peer in (
            Bf16Weight("bfloat16 weight, to nearest", stochastic=False),
            Bf16Weight("bfloat16 weight, stochastic", stochastic=True),
            SplitWeight("bfloat16 + int8, to nearest (FlashOptim)", stochastic=False),
            SplitWeight(WEIGHT_CONTROL, stochastic=True),
        )
    }
)
"""Name → codec of weights."""

LOG8_TO_NEAREST = LogNearest()
"""Ours without its stochastic rounding: no peer, but what the rounding is compared with."""

__all__ = ["LOG8_TO_NEAREST", "STATE_PEERS", "WEIGHT_CONTROL", "WEIGHT_PEERS"]
