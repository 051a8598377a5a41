"""What runs in front of an encode in the same pass: one file a prologue. See `narrowgauge.kernels.fused_quantize`."""

from __future__ import annotations

from difflib import get_close_matches

from narrowgauge.kernels.prologues.add import ADD
from narrowgauge.kernels.prologues.gelu import GELU, GELU_TANH
from narrowgauge.kernels.prologues.hadamard import HADAMARDS
from narrowgauge.kernels.prologues.prologue import Prologue
from narrowgauge.kernels.prologues.relu_squared import RELU_SQUARED
from narrowgauge.kernels.prologues.rms_norm import ADD_RMS_NORM, RMS_NORM
from narrowgauge.kernels.prologues.silu import SILU_MUL

PROLOGUES: dict[str, Prologue] = {
    prologue.name: prologue
    for prologue in (*HADAMARDS, RMS_NORM, ADD_RMS_NORM, SILU_MUL, GELU, GELU_TANH, RELU_SQUARED, ADD)
}


def get_prologue(name: str) -> Prologue:
    """The prologue called `name`; ValueError names the nearest and all that there are."""
    if name not in PROLOGUES:
        near = get_close_matches(name, PROLOGUES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"prologue: got {name!r}, accepted: {', '.join(PROLOGUES)}{hint}")
    return PROLOGUES[name]


__all__ = ["PROLOGUES", "Prologue", "get_prologue"]
