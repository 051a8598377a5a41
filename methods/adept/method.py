"""The plug-in: grows the model by surgery, then sets a learning rate for each tensor of the new blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from narrowgauge.methods.adept.blocks import insert_copies
from narrowgauge.methods.adept.experiment import adept_experiment
from narrowgauge.methods.adept.importance import RANGES, block_importance, rate_scales, unit_importance
from narrowgauge.train import Batch, ByteCorpus, Experiment, PublishedMethod, register

PLACES = ("least", "most")
PROBE_BATCHES, PROBE_ROWS, PROBE_LENGTH = 4, 16, 64

Probe = Callable[[int], Sequence[Batch]]
"""probe(number) gives batches of general text, other ones for each number; a pure function."""


def text_probe(corpus: ByteCorpus, *, seed: int = 0) -> Probe:
    """Batches of the corpus's training part, 4 of 16 rows of 64 bytes for each number."""

    def probe(number: int) -> list[Batch]:
        first = number * PROBE_BATCHES
        return [corpus.batch(first + i, PROBE_ROWS, PROBE_LENGTH, seed) for i in range(PROBE_BATCHES)]

    return probe


@register
@dataclass(eq=False)
class ADEPT(PublishedMethod):
    """Puts trainable copies behind the blocks that general competence needs least, and freezes everything else.

    ``blocks``: how many, from 1. ``layers``: which ones, instead of by importance. ``place``: "least" important as
    published, or "most" as a control. ``refresh``: steps between two settings of the learning rates, the first after
    so many steps; 0: all rates stay 1. ``general``: text of general competence, a path or "" for the standard library
    (both as bytes), or a function number → batches. ``ranges``: importance is scaled among "all" tensors as published,
    or among "kinds", vectors and matrices apart.

    ``importance`` and ``chosen``: of the blocks before surgery. Raises ``ValueError`` for other settings, and for a
    model with fewer blocks or without ``o_proj`` and ``down_proj`` in them.
    """

    name = "adept"
    summary = "train copies of the least important blocks, each tensor as fast as general competence allows"
    paper = "ADEPT: Continual Pretraining via Adaptive Expansion and Dynamic Decoupled Tuning (ICLR 2026)"
    arxiv = "2510.10071"
    usage = "Trainer(model, domain_text, build_optimizer, methods=[ADEPT(blocks=4, general='general.txt')])"

    blocks: int = 1
    layers: tuple[int, ...] = ()
    place: str = "least"
    refresh: int = 500
    general: str | Probe = ""
    ranges: str = "all"
    importance: list[float] = field(default_factory=list, init=False, repr=False)
    chosen: list[int] = field(default_factory=list, init=False, repr=False)
    _scales: dict[str, float] = field(default_factory=dict, init=False, repr=False)
    _model: nn.Module | None = field(default=None, init=False, repr=False)
    _probe: Probe | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"blocks: expected at least 1, got {self.blocks}")
        if self.place not in PLACES:
            raise ValueError(f"place: expected one of {', '.join(PLACES)}, got {self.place!r}")
        if self.refresh < 0:
            raise ValueError(f"refresh: expected a number of steps, or 0 for never, got {self.refresh}")
        if self.ranges not in RANGES:
            raise ValueError(f"ranges: expected one of {', '.join(RANGES)}, got {self.ranges!r}")

    def _batches(self, number: int) -> Sequence[Batch]:
        if self._probe is None:
            general = self.general
            self._probe = text_probe(ByteCorpus(general or None)) if isinstance(general, str) else general
        return self._probe(number)

    def surgery(self, model: nn.Module) -> tuple[nn.Module, Mapping[str, str] | None]:
        """Stage 1: measure the blocks, copy the chosen ones, freeze the rest."""
        if self.layers:
            self.chosen = sorted(set(self.layers))
        else:
            self.importance = block_importance(model, self._batches(0))
            if self.blocks > len(self.importance):
                raise ValueError(f"blocks: expected at most the model's {len(self.importance)}, got {self.blocks}")
            order = sorted(range(len(self.importance)), key=self.importance.__getitem__, reverse=self.place == "most")
            self.chosen = sorted(order[: self.blocks])
        self._scales = {}
        # Kept for the probes: this is the model itself, whatever a distributed run wraps around it later.
        self._model = model
        return model, insert_copies(model, self.chosen)

    def lr_scales(self, step: int) -> Mapping[str, float]:
        """Stage 2: the factors in [0, 2] of the last refresh."""
        return self._scales

    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        """Measure the tensors anew, every ``refresh`` steps: not before the first, when every product is still 0."""
        if self.refresh and (step + 1) % self.refresh == 0 and self._model is not None:
            importance = unit_importance(self._model, self._batches((step + 1) // self.refresh))
            axes = {name: p.ndim for name, p in self._model.named_parameters()}
            self._scales = rate_scales(importance, axes if self.ranges == "kinds" else None)

    def state_dict(self) -> dict[str, Any]:
        """The chosen blocks and the factors."""
        return {"chosen": list(self.chosen), "scales": dict(self._scales)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the factors; ``ValueError`` when other blocks were chosen."""
        if list(state["chosen"]) != self.chosen:
            raise ValueError(
                f"adept: the saved run grew behind blocks {list(state['chosen'])}, this one behind {self.chosen};"
                " begin with the same weights, or give layers"
            )
        self._scales = {name: float(scale) for name, scale in state["scales"].items()}

    @classmethod
    def experiment(cls) -> Experiment:
        """What is learned and forgotten, against training everything and against the most important block."""
        return adept_experiment(cls)
