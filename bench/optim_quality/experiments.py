"""The tables of the comparison: which experiment fills each, which figure is better, and what is chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from narrowgauge.bench.optim_quality import defects, dynamics, expected, masters, precision, toy, weights
from narrowgauge.bench.optim_quality.sizes import Sizes
from narrowgauge.bench.optim_quality.table import Better, Figures, Table
from narrowgauge.numerics.optimizers.protocol import StateCodec, WeightCodec, state_bytes

OURS = "log8"


@dataclass(frozen=True)
class Experiment:
    """run: figures of one codec, by column. title, better, tolerance, expected, source: see `Table`.
    broken: what is wrong with the figures of a codec. stochastic: for codecs that draw alone. ours: whom peers are
    compared with."""

    key: str
    title: str
    run: Callable[[Any, Sizes], Figures]
    better: Better = Better.NEITHER
    tolerance: float = 0.0
    expected: Mapping[str, Figures] = field(default_factory=dict)
    broken: Callable[[Any, Figures], Mapping[str, str]] | None = None
    stochastic: bool = False
    ours: str = OURS


def measured_bytes(codec: StateCodec | WeightCodec, side: int) -> float:
    """Bytes of the stored arrays of a matrix of side x side, over its elements."""
    m = np.random.default_rng(31).standard_normal((side, side), dtype=np.float32)
    state = codec.store_weight(m, 0) if isinstance(codec, WeightCodec) else codec.store(m, np.square(m), 0)
    size = state_bytes(state)
    if size is None:
        raise TypeError(f"{getattr(codec, 'name', codec)}: the state has parts whose size is not known")
    return size / m.size


def bytes_table(sizes: Mapping[str, float]) -> Table:
    """The table of measured bytes."""
    title = "Bytes per parameter: of both moments, or of a weight"
    rows = {name: {"bytes": size} for name, size in sizes.items()}
    return Table("bytes", title, ("bytes",), rows, expected=expected.BYTES)


STATE_EXPERIMENTS = (
    Experiment("update", "NMSE of m / sqrt(v) after one write; gradients equal, rank-1 or lognormal in scale; β₂",
               precision.update_error, Better.SMALLER, 0.05, expected.UPDATE_ERROR),
    Experiment("moments", "Errors of m and of v after one write, equal scales, β₂ = 0.95", precision.moment_error,
               Better.SMALLER, 0.05, expected.MOMENT_ERROR),
    Experiment("zeros", "Percent of positive v that read back as 0, element scales lognormal", precision.zero_share,
               Better.SMALLER, 0.05, expected.ZERO_SHARE),
    Experiment("gradients", "NMSE of m and relative rms error of v by the rms of the gradient",
               precision.small_gradients, Better.SMALLER, 0.05, expected.SMALL_GRADIENTS),
    Experiment("defects", "Constant groups, zeros and a tiny element: relative errors", defects.defects,
               expected=expected.DEFECTS, broken=defects.broken),
    Experiment("forgetting", "Stored v over exact v after the variance dropped 100 times on every second element",
               dynamics.forgetting, Better.NEARER_ONE, 0.05, expected.FORGETTING),
    Experiment("stationary", "Stored v over exact v where nothing changes", dynamics.stationary,
               Better.NEARER_ONE, 0.01, expected.STATIONARY),
    Experiment("slope", "Stored over exact averages that stand still, mean of many writes", dynamics.slope,
               Better.NEARER_ONE, 0.001, stochastic=True),
    Experiment("toy", "Final loss of a quadratic over that with float32 moments", toy.loss_ratio,
               Better.NEARER_ONE, 0.02, expected.TOY),
)  # fmt: skip
"""Of codecs of moments."""


WEIGHT_EXPERIMENTS = (
    Experiment("decay", "Share of a weight decay that happens, by lr · wd; weights from 1 to 2, the worst eighth of "
               "them, and weights of 1", weights.decay_realised, Better.NEARER_ONE, 0.02, expected.DECAY,
               ours=masters.OURS),
    Experiment("drift", "Share of a small noisy drift that happens, by its mean step; weights of 1",
               weights.drift_realised, Better.NEARER_ONE, 0.02, expected.DRIFT, ours=masters.OURS),
)  # fmt: skip
"""Of codecs of weights."""
