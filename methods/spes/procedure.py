"""The procedure: local steps on every node, then an exchange, round after round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from narrowgauge.methods.spes.exchange import exchange_all, exchange_experts
from narrowgauge.methods.spes.experiment import spes_experiment
from narrowgauge.methods.spes.merging import Merging, merge_experts
from narrowgauge.methods.spes.ownership import Ownership, keep_to_own
from narrowgauge.methods.spes.steering import SteeredRouterLoss
from narrowgauge.train import Experiment, Procedure, Trainer, register

EXCHANGES = ("experts", "all", "none")


@register
@dataclass(frozen=True, slots=True)
class SPES(Procedure):
    """Trains a mixture of experts on ``nodes`` nodes that exchange weights every ``every`` steps.

    ``exchange``: "experts" is the method; "all" trains and averages everything everywhere, "none" never talks: its
    controls. ``merging``: the experts' warm-up, or ``None``. ``balance``, ``z``: factors of the routers' losses.
    ``steering``: where the factor on own experts' shares begins; the authors' script has 0.7, and 1 is none. Raises
    ``ValueError`` for other settings.

    Prepare each node's model with :meth:`prepare` before its optimizer is made, then :meth:`train` the nodes' trainers
    together in one process. In a process of its own, a node alternates ``trainer.fit`` and
    :func:`~narrowgauge.methods.spes.exchange_with_group`.
    """

    name = "spes"
    summary = "decentralised mixture of experts: each node trains its own experts, and only those travel"
    paper = "Pretraining A Large Language Model using Distributed GPUs: A Memory-Efficient Decentralized Paradigm"
    arxiv = "2602.11543"
    usage = (
        "spes = SPES(nodes=4, every=50)\n"
        "methods = [spes.prepare(model, node, steps) for node, model in enumerate(models)]\n"
        "trainers = [Trainer(model, data, build, methods=[loss]) …]\n"
        "spes.train(trainers, steps)"
    )
    hooks = ("phases", "loss")

    nodes: int = 4
    every: int = 50
    exchange: str = "experts"
    merging: Merging | None = None
    balance: float = 0.01
    z: float = 0.001
    steering: float = 1.0

    def __post_init__(self) -> None:
        for name in ("nodes", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.steering <= 1:
            raise ValueError(f"steering: expected a number in (0, 1], got {self.steering!r}")
        if self.exchange not in EXCHANGES:
            raise ValueError(f"exchange: expected one of {', '.join(EXCHANGES)}, got {self.exchange!r}")

    def prepare(self, model: nn.Module, node: int, steps: int) -> SteeredRouterLoss:
        """Freeze what the node does not train; the loss for its trainer, steered during a fifth of ``steps``."""
        ownership = Ownership.of(model, self.nodes)
        own_experts = self.exchange == "experts"
        if own_experts:
            keep_to_own(model, ownership, node)
        ramp = steps // 5 if own_experts else 0
        return SteeredRouterLoss(
            balance=self.balance, z=self.z, ownership=ownership, node=node, start=self.steering, ramp=ramp
        )

    def train(self, trainers: Sequence[Trainer], steps: int) -> int:
        """Train all nodes until ``steps`` steps are done, exchanging every ``every`` steps and at the end.

        Returns how many exchanges there were. Raises ``ValueError`` for another number of trainers than of nodes, or
        trainers that are not equally far.
        """
        if len(trainers) != self.nodes:
            raise ValueError(f"trainers: expected one for each of {self.nodes} nodes, got {len(trainers)}")
        if len({trainer.step for trainer in trainers}) > 1:
            raise ValueError(f"trainers: expected equal steps, got {[trainer.step for trainer in trainers]}")
        exchanges = 0
        while (done := trainers[0].step) < steps:
            target = min(steps, (done // self.every + 1) * self.every)
            for trainer in trainers:
                trainer.fit(target)
            exchanges += self._exchange([trainer.model for trainer in trainers])
            if self.merging is not None and self.merging.is_due(target):
                for trainer in trainers:
                    merge_experts(trainer.model, self.merging.alpha(target), self.merging.neighbours)
        return exchanges

    def _exchange(self, models: Sequence[nn.Module]) -> bool:
        if self.exchange == "experts":
            exchange_experts(models, Ownership.of(models[0], self.nodes))
        elif self.exchange == "all":
            exchange_all(models)
        return self.exchange != "none"

    @classmethod
    def experiment(cls) -> Experiment:
        """Validation loss against central training, full averaging and no exchange, and the bytes of each."""
        return spes_experiment(cls)
