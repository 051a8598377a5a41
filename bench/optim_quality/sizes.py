"""How much of each experiment runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from narrowgauge.numerics.optimizers.check import DECAY_RATES, TRACKING


@dataclass(frozen=True)
class Sizes:
    """side: of the matrix whose bytes are counted. elements: of one write. tracked, stationary, toy, written, weights:
    of the experiments over many steps.
    tracking_steps, stationary_steps: β₂ → steps. writes: of the unbiasedness. decay_steps: of weights."""

    side: int = 1024
    elements: int = 1 << 15
    tracked: int = 2048
    tracking_steps: Mapping[float, int] = field(default_factory=lambda: TRACKING)
    stationary: int = 2048
    stationary_steps: Mapping[float, int] = field(
        default_factory=lambda: MappingProxyType({0.95: 400, 0.99: 2000, 0.999: 8000})
    )
    toy: int = 2048
    toy_steps: int = 6000
    written: int = 2048
    writes: int = 10_000
    weights: int = 4096
    decay_steps: int = 2000
    decay_rates: tuple[float, ...] = DECAY_RATES


FULL = Sizes()
QUICK = Sizes(
    side=256,
    elements=2048,
    tracked=512,
    tracking_steps=MappingProxyType({0.95: 8}),
    stationary=512,
    stationary_steps=MappingProxyType({0.95: 8, 0.99: 8, 0.999: 8}),
    toy=512,
    toy_steps=10,
    written=512,
    writes=10,
    weights=512,
    decay_steps=20,
)
"""For tests: everything runs, no figure is worth anything."""
