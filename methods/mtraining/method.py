"""The plug-in: a model's attention becomes sparse, for training and evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from narrowgauge.methods.mtraining.attention import SparseAttention, attention_layers
from narrowgauge.methods.mtraining.experiment import EXPERIMENT
from narrowgauge.methods.mtraining.index import Selection
from narrowgauge.train import Experiment, PublishedMethod, register
from narrowgauge.train.blocks import causal_attention


@register
@dataclass(eq=False)
class MTraining(PublishedMethod):
    """Replaces the causal attention of every layer; ``mtraining_density`` with every evaluation is the share of the
    readable entries that were kept in its last batch, over all layers.

    ``mass``, ``probes``, ``sinks``, ``window``, ``max_columns``, ``max_diagonals``: as of :class:`Selection`.
    ``block``: side of the tiles in which diagonals are computed. The defaults are those of long contexts: for a few
    hundred positions take a window and sinks of a few, and a ``block`` of 4 to 16. Raises ``ValueError`` for settings
    out of range and for a model without causal attention.
    """

    name = "mtraining"
    summary = "train with dynamic sparse attention: columns and diagonals found at every forward"
    paper = "MTraining: Distributed Dynamic Sparse Attention for Efficient Ultra-Long Context Training (MLSys 2026)"
    arxiv = "2510.18830"
    usage = "narrowgauge train --method mtraining:mass=0.9,probes=16,sinks=1,window=8,block=8"

    mass: float = 0.95
    probes: int = 64
    sinks: int = 30
    window: int = 100
    max_columns: int | None = None
    max_diagonals: int | None = None
    block: int = 64
    layers: list[SparseAttention] = field(default_factory=list, init=False, repr=False)
    """What attends in each layer, once the model is known."""

    def __post_init__(self) -> None:
        self._attend()

    def _attend(self) -> SparseAttention:
        selection = Selection(self.mass, self.probes, self.sinks, self.window, self.max_columns, self.max_diagonals)
        return SparseAttention(selection, self.block)

    def surgery(self, model: nn.Module) -> tuple[nn.Module, Mapping[str, str] | None]:
        """Parameters and their names stay."""
        causal = [layer for layer in attention_layers(model) if layer.attend is causal_attention]
        if not causal:
            raise ValueError(f"mtraining: {type(model).__name__} has no layer with plain causal attention")
        self.layers = [self._attend() for _ in causal]
        for layer, attend in zip(causal, self.layers, strict=True):
            layer.attend = attend
        return model, None

    def evaluate(self, model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        """The density of what was just evaluated."""
        densities = [attend.density for attend in self.layers]
        return {"mtraining_density": sum(densities) / len(densities)}

    @classmethod
    def experiment(cls) -> Experiment:
        """Balance of the layouts, and what sparse attention keeps of a dense model's accuracy and learning."""
        return EXPERIMENT
