"""What the fake quantisers have in common.

A weight quantiser maps w [N, K] to values that a grid of codes can hold,

    y = scaled weight        ŵ = (level(y) − zero_point) · scale

`forward` gives ŵ with the method's gradient, `codes` the codes of the same levels. Both come from the same `scaled`,
so decoding the codes gives ŵ bit for bit (float32; other dtypes to one rounding).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from narrowgauge.formats import parse
from narrowgauge.formats.tiles import Tile
from narrowgauge.nn.qat.groups import Granularity, check_divides, scheme_text, to_groups
from narrowgauge.nn.qat.levels import LevelGrid, level_grid
from narrowgauge.nn.straight_through import high_precision, straight_through


@dataclass(frozen=True)
class WeightCodes:
    """w = (decode(codes) − zero_point) · scale, in the space rotated by a Hadamard of block `rotate` along K (0: none).

    codes: [N, K], one code per element, uint8 or int8. scale: float32 of `Scheme.scale_shape((N, K))`. scheme: element
    format and granularity. zero_point: float32 of the scale's shape, or None.
    """

    codes: Tensor
    scale: Tensor
    scheme: str
    zero_point: Tensor | None = None
    rotate: int = 0

    def decode(self) -> Tensor:
        """The weight in float32, [N, K], still rotated if `rotate` is not 0."""
        spec = parse(self.scheme)
        element = spec.element
        table = torch.from_numpy(element.values()).to(device=self.codes.device, dtype=torch.float32)
        levels = table[self.codes.long() % 2**element.bits]
        if self.zero_point is not None:
            levels = levels - spread(self.zero_point, levels, spec.tile)
        return levels * spread(self.scale, levels, spec.tile)


@dataclass(frozen=True)
class Scaled:
    """y: [N, K] in units of the element format's values. scale, zero_point: one per tile, 2-D; zero_point may be
    None."""

    y: Tensor
    scale: Tensor
    zero_point: Tensor | None = None


def spread(numbers: Tensor, like: Tensor, tile: Tile) -> Tensor:
    """One number per tile, [down, across], so that it broadcasts against `like` [N, K]."""
    for axis, side in enumerate(tile):
        if side not in (None, 1) and numbers.shape[axis] > 1:
            numbers = numbers.repeat_interleave(side, dim=axis).narrow(axis, 0, like.shape[axis])
    return numbers


class WeightQuantizer(nn.Module, ABC):
    """Fake quantiser of a linear layer's weight [N, K].

    Made from its settings alone, which it checks; `bind(weight)` gives it what depends on the weight's shape and values
    (learned steps, searched ranges). `element` is the name of the format of a code.
    """

    element: str
    granularity: Granularity = "tensor"
    _grid: LevelGrid | None = None
    _tile: Tile | None = None
    rotate: int = 0
    """Hadamard block along K in which the quantised weight lives; the layer rotates its input to match."""

    @property
    def scheme(self) -> str:
        """Format and granularity of the codes, as a scheme text."""
        return scheme_text(self.element, self.granularity)

    @property
    def tile(self) -> Tile:
        """Rows and columns that share a scale."""
        if self._tile is None:
            self._tile = parse(self.scheme).tile
        return self._tile

    @property
    def grid(self) -> LevelGrid:
        """Levels of the element format."""
        if self._grid is None:
            self._grid = level_grid(parse(self.element).element)
        return self._grid

    def bind(self, weight: Tensor) -> Self:
        """Takes shapes and initial values from `weight` and returns itself.

        Raises ValueError for weights that are not 2-D or whose rows the groups do not divide, TypeError for weights
        that are not floating.
        """
        if weight.dim() != 2:
            raise ValueError(f"weight: expected 2 axes, got shape {tuple(weight.shape)}")
        if not weight.is_floating_point():
            raise TypeError(f"weight: expected a floating dtype, got {weight.dtype}")
        check_divides(weight, self.granularity)
        self._bind(weight)
        self.reset_(weight)
        _ = self.tile, self.grid  # looked up now, so that compiled graphs meet finished tables
        return self

    def _bind(self, weight: Tensor) -> None:
        """Registers parameters and buffers of the right shape."""

    def reset_(self, weight: Tensor) -> None:
        """Sets learned and searched values anew from `weight`, in place."""

    @property
    def state(self) -> dict[str, Any]:
        """What beside its settings decides which parameters and buffers it has, as plain data, for files."""
        return {}

    def take_state_(self, state: Mapping[str, Any], weight: Tensor) -> None:
        """Makes it one of that `state`, after `bind`. The values of its tensors come later."""

    def after_step_(self, weight: Tensor) -> None:
        """What the method does to the stored weight after an optimizer step."""

    def groups(self, weight: Tensor) -> Tensor:
        """`weight` [N, K] as [tiles down, tiles across, elements of a tile]."""
        return to_groups(weight, self.granularity)

    @abstractmethod
    def scaled(self, weight: Tensor) -> Scaled:
        """The weight in units of the element format. `weight` is float32 or float64; no gradient is recorded."""

    def gradient_multiplier(self, weight: Tensor, scaled: Scaled, values: Tensor) -> Tensor | None:
        """Multiplier of the straight-through gradient, [N, K]; None passes it as it is."""
        return None

    def forward(self, weight: Tensor) -> Tensor:
        """ŵ, with shape and dtype of `weight` [N, K]."""
        with torch.no_grad():
            wide = high_precision(weight)
            scaled = self.scaled(wide)
            values = self.values(scaled)
            multiplier = self.gradient_multiplier(wide, scaled, values)
        return straight_through(weight, values.to(weight.dtype), multiplier)

    def values(self, scaled: Scaled) -> Tensor:
        """(level − zero_point) · scale, [N, K]."""
        levels = self.grid.nearest(scaled.y)
        if scaled.zero_point is not None:
            levels = levels - spread(scaled.zero_point, levels, self.tile)
        return levels * spread(scaled.scale, levels, self.tile)

    @torch.no_grad()
    def codes(self, weight: Tensor) -> WeightCodes:
        """The codes of `weight`, whose decoded values are what `forward` gives (rotated if `rotate` is not 0)."""
        scaled = self.scaled(high_precision(weight))
        codes = self.grid.codes(self.grid.nearest(scaled.y))
        zero_point = None if scaled.zero_point is None else scaled.zero_point.float()
        return WeightCodes(codes, scaled.scale.float(), self.scheme, zero_point, self.rotate)

    @torch.no_grad()
    def border_distance(self, weight: Tensor) -> Tensor:
        """How far each weight is from changing its code, [N, K]; see `LevelGrid.border_distance`."""
        return self.grid.border_distance(self.scaled(high_precision(weight)).y)


class ActivationQuantizer(nn.Module, ABC):
    """Fake quantiser of a layer's input [..., K], or of an output (keys and values)."""

    @property
    def input_scheme(self) -> str | None:
        """A scheme whose quantisation gives the same values, or None where no scheme does."""
        return None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x̂, with shape and dtype of `x`."""


class GradientQuantizer(nn.Module, ABC):
    """The identity, whose backward quantises the gradient of a layer's output [..., N]."""
