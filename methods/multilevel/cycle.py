"""The V-cycle: train large for a little, go down a level, train small, come up again, train large for the rest.

With ``E_a`` the steps on the way down, ``E_s`` those at the bottom and ``α`` the ratio::

    cycle(θ):  train θ for E_a steps
               θ_small ← coalesce(θ);  train θ_small for E_s steps, or cycle(θ_small) where there are more levels
               θ ← (1 - α) θ + α · decoalesce(θ_small)
               train θ for the rest

The interpolation is what makes the large model larger than the small one: de-coalesced alone, twins have equal weights,
hence equal gradients, for ever. Each visit has an optimizer of its own, fresh.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from narrowgauge.methods.multilevel.llama import Depth, coalesce, coalesced_config, decoalesce, interpolate_
from narrowgauge.train import Llama, LlamaConfig, Trainer
from narrowgauge.train.phases import Phase


@dataclass(frozen=True, slots=True)
class Visit:
    """``steps`` of training at ``level`` (0: the model itself). ``part``: ``"down"``, ``"bottom"`` or ``"up"``."""

    level: int
    part: str
    steps: int


Train = Callable[[Llama, Visit], object]
"""Trains a model in place for a visit's steps; it may put the model into a recipe first, if it is not yet in one."""


@dataclass(frozen=True, slots=True)
class VCycle:
    """``down`` and ``up``: steps of each level but the smallest before going down and after coming up; ``bottom``:
    steps of the smallest.

    ``ratio``: α in [0, 1], 0.25 for GPT and DeiT and 0.5 for BERT in the paper. ``width``, ``depth``: what is paired,
    as in :func:`~narrowgauge.methods.multilevel.coalesce`. Raises ``ValueError`` for settings that do not fit.
    """

    down: tuple[int, ...]
    bottom: int
    up: tuple[int, ...]
    ratio: float = 0.5
    width: bool = True
    depth: str = Depth.ADJACENT

    def __post_init__(self) -> None:
        if not self.down or len(self.down) != len(self.up):
            raise ValueError(
                f"down, up: expected as many steps in both, at least one, got {len(self.down)} and {len(self.up)}"
            )
        if min(*self.down, self.bottom, *self.up) < 0:
            raise ValueError(f"down, bottom, up: expected steps of at least 0, got {self.visits()}")
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio: expected a number in [0, 1], got {self.ratio!r}")
        Depth(self.depth)

    def visits(self) -> list[Visit]:
        """All visits in the order in which they are made."""
        levels = range(len(self.down))
        going_down = [Visit(level, "down", self.down[level]) for level in levels]
        coming_up = [Visit(level, "up", self.up[level]) for level in reversed(levels)]
        return [*going_down, Visit(len(self.down), "bottom", self.bottom), *coming_up]

    def configs(self, config: LlamaConfig) -> list[LlamaConfig]:
        """Sizes of all levels, largest first; ``ValueError`` where one cannot be halved."""
        configs = [config]
        for _ in self.down:
            configs.append(coalesced_config(configs[-1], width=self.width, depth=self.depth))
        return configs

    def run(self, model: Llama, train: Train) -> Llama:
        """The cycle; ``model`` itself is trained and returned. Visits of 0 steps are left out."""
        self.configs(model.config)
        levels = [model]
        for visit in self.visits():
            self._enter(visit, levels)
            if visit.steps:
                train(levels[-1], visit)
        return model

    def phases(self, model: Llama, trainer: Callable[[Llama, Visit], Trainer]) -> list[Phase]:
        """The visits for :func:`~narrowgauge.train.phases.run_phases`, which can go on with an interrupted cycle.

        ``trainer(model, visit)`` makes the trainer of a visit, of that model. The list is good for one call.
        """
        self.configs(model.config)
        levels = [model]

        def phase(visit: Visit) -> Phase:
            def build(before: nn.Module | None) -> Trainer:
                if before is not None and before is not levels[-1]:
                    raise ValueError(f"trainer: expected to train the model it is given; it has another before {visit}")
                self._enter(visit, levels)
                return trainer(levels[-1], visit)

            return Phase(f"level-{visit.level}-{visit.part}", visit.steps, build)

        return [phase(visit) for visit in self.visits()]

    def _enter(self, visit: Visit, levels: list[Llama]) -> None:
        """Make the last of ``levels``, which are the models from the largest down, the one to be visited."""
        if visit.part == "up":
            small = levels.pop()
            interpolate_(levels[-1], decoalesce(small, levels[-1].config, depth=self.depth), self.ratio)
        elif visit.level:
            levels.append(coalesce(levels[-1], width=self.width, depth=self.depth))
