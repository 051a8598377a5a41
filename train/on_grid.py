"""`OnGrid`: keeps the weights of recipes without a float master on their grid, as part of the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from narrowgauge.nn.grid_weights import GridWeights
from narrowgauge.train.method import Method


class OnGrid(Method):
    """Rounds the weights of layers whose recipe has `update` after every step; see `nn.GridWeights`, which takes the
    same options. First among the methods, so that the others see what the layers hold."""

    name = "on_grid"
    summary = "weights live on the grid of the recipe, without a float master"

    def __init__(self, scheme: str | None = None, *, scale: str = "amax", renew: int = 0, seed: int = 0) -> None:
        self.scheme, self.scale, self.renew, self.seed = scheme, scale, renew, seed
        self.grid: GridWeights | None = None

    def attach(self, model: nn.Module) -> None:
        self.grid = GridWeights(model, self.scheme, scale=self.scale, renew=self.renew, seed=self.seed)

    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        self._grid.round()

    @property
    def _grid(self) -> GridWeights:
        if self.grid is None:
            raise ValueError("on_grid: not attached to a model yet")
        return self.grid

    def state_dict(self) -> dict[str, Any]:
        return self._grid.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._grid.load_state_dict(state)
