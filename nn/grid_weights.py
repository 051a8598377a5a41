"""`GridWeights`: weights that live on the grid of a format, without a master copy in high precision.

    after every optimizer step:   w ← Q(w)      with the scale of the grid as it is, stochastic where the scheme says so

Between steps every weight is a code times a scale, exactly. A step that is smaller than the grid moves a weight by
chance, and by the right amount on average: Gupta et al. (arXiv 1502.02551, 16-bit fixed point), WAGE (arXiv
1802.04680), DQT (arXiv 2412.04787: int8 and ternary weights). With rounding to nearest small steps are lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.formats.operand import unscaled
from narrowgauge.formats.scaling import SMALLEST_SCALE
from narrowgauge.kernels._scales_torch import scales
from narrowgauge.kernels.tensor import quantize_raw
from narrowgauge.kernels.tiles import as_matrix, group_amax, multiply_tiles, tile_counts
from narrowgauge.kernels.wide import round_values

SCALES = ("amax", "absmean")


class GridWeights:
    """Keeps the weights of a model's layers on the grid of `scheme`.

    model: its layers whose recipe has `update`, or, where `scheme` is given, every layer with a matrix `weight` and a
    recipe. scheme: per tensor, per row or in tiles, of at most 16 bits; `+sr` rounds stochastically. scale: "amax", by
    the scheme's rule, or "absmean", mean |w| of the tensor (ternary weights). renew: after how many steps scales are
    measured anew; 0 keeps them, so that what leaves the range is clipped to it.

    `attach(optimizer)` rounds after each of its steps; `round()` does it by hand. Weights are rounded at once when the
    object is made. ValueError for block formats, unknown scales, and a model without such layers.
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: str | Scheme | None = None,
        *,
        scale: str = "amax",
        renew: int = 0,
        seed: int = 0,
    ) -> None:
        if scale not in SCALES:
            raise ValueError(f"scale: got {scale!r}, accepted: {', '.join(SCALES)}")
        if not isinstance(renew, int) or renew < 0:
            raise ValueError(f"renew: expected 0 (never) or a number of steps, got {renew!r}")
        chosen = None if scheme is None else parse(scheme)
        self.schemes: dict[str, Scheme] = {}
        self.weights: dict[str, nn.Parameter] = {}
        known: set[int] = set()
        for name, layer in model.named_modules():
            recipe = getattr(layer, "recipe", None)
            grid = chosen or getattr(recipe, "update", None)
            weight = getattr(layer, "weight", None)
            if recipe is None or grid is None or not isinstance(weight, nn.Parameter) or id(weight) in known:
                continue
            known.add(id(weight))
            self.schemes[name], self.weights[name] = grid, weight
        if not self.weights:
            raise ValueError("model: no layer whose recipe has `update`; give a scheme, or convert the model first")
        for grid in self.schemes.values():
            if isinstance(grid.format, BlockFormat) or grid.rule.searches:
                raise ValueError(f"scheme: a grid of weights has one float scale per tile, from its amax; got {grid}")
        self.scale, self.renew, self.seed, self.step = scale, renew, seed, 0
        self.scales = {name: self._measure(name) for name in self.weights}
        self.round()

    def attach(self, optimizer: torch.optim.Optimizer) -> GridWeights:
        """Rounds after every step of `optimizer`. TypeError for what is none."""
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
        optimizer.register_step_post_hook(lambda *_: self.round())
        return self

    @torch.no_grad()
    def round(self) -> None:
        """Puts every weight onto its grid; one step of the random streams."""
        if self.renew and self.step and self.step % self.renew == 0:
            self.scales = {name: self._measure(name) for name in self.weights}
        for number, (name, weight) in enumerate(self.weights.items()):
            weight.copy_(self._rounded(name, number).view_as(weight))
        self.step += 1

    @torch.no_grad()
    def codes(self, name: str) -> tuple[Tensor, Tensor]:
        """(codes, scale) of the weight of the layer called `name`, for formats of at most 8 bits: nothing is lost.
        ValueError for other names and wider formats."""
        if name not in self.weights:
            near = get_close_matches(name, self.weights, n=2)
            hint = f"nearest: {', '.join(near)}" if near else f"names: {', '.join([*self.weights][:5])}"
            raise ValueError(f"name: no layer {name!r} has weights on a grid; {hint}")
        grid = unscaled(replace(self.schemes[name], stochastic=False))
        return quantize_raw(self._divided(name), str(grid))[0], self.scales[name]

    def state_dict(self) -> dict[str, Any]:
        """The scales and the step."""
        return {"step": self.step, "scales": dict(self.scales)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; ValueError for those of another model."""
        if state.keys() != {"step", "scales"}:
            raise ValueError(
                f"state: expected what state_dict gives, step and scales, got {', '.join(state) or 'nothing'}"
            )
        if set(state["scales"]) != set(self.scales):
            raise ValueError(f"state: scales of {sorted(state['scales'])}, expected those of {sorted(self.scales)}")
        self.step, self.scales = int(state["step"]), dict(state["scales"])

    def _measure(self, name: str) -> Tensor:
        """float32 scale of every tile of the weight."""
        weight, grid = self.weights[name].detach(), self.schemes[name]
        matrix = as_matrix(weight.float())
        if self.scale == "absmean":
            mean = matrix.abs().mean().clamp(min=SMALLEST_SCALE)
            return mean.expand(tile_counts(matrix.shape, grid.tile)).clone()
        return scales(group_amax(matrix, grid.tile), grid)[1]

    def _divided(self, name: str) -> Tensor:
        matrix = as_matrix(self.weights[name].detach()).float()
        return multiply_tiles(matrix.clone(), torch.reciprocal(self.scales[name]), self.schemes[name].tile)

    def _rounded(self, name: str, number: int) -> Tensor:
        grid, offset = self.schemes[name], (self.step << 20) + number
        values = round_values(self._divided(name), str(unscaled(grid)), self.seed, offset)
        return multiply_tiles(values, self.scales[name], grid.tile)
