"""`QuantEmbedding`: an `nn.Embedding` whose table is quantised as it is looked up, with a straight-through gradient.

    y = dequantise(quantise(W))[indices]          dL/dW: that of nn.Embedding

The table [num_embeddings, embedding_dim] is quantised as the slot w_fprop of a recipe says. A head that is tied to it
sees the same matrix in its forward product, so under one recipe both see the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from narrowgauge.formats import Scheme
from narrowgauge.formats.operand import AnyScheme, draws_anew
from narrowgauge.formats.stages import Draw
from narrowgauge.nn.layer import mapped_weight
from narrowgauge.nn.maps import parse_map
from narrowgauge.nn.operand import make_operand, restored
from narrowgauge.nn.recipe import Recipe, get_recipe
from narrowgauge.nn.recipe import recipe as make_recipe


class _StraightThrough(torch.autograd.Function):
    """x [rows, columns] as the slot `text` leaves it; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, text: str) -> Tensor:
        return restored(make_operand(x, text, Draw()), text, Draw(), x.shape[1], x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class QuantEmbedding(nn.Embedding):
    """Drop-in for `nn.Embedding`: arguments, parameter, `state_dict`, indices [...] → [..., embedding_dim].

    recipe: its slot w_fprop and its weight map count. scheme: of the table instead of a recipe, such as "int8/row".
    Where rows have scales of their own (row, 1xG, MX), only rows that are looked up are quantised, and `sparse`,
    `max_norm` and `scale_grad_by_freq` mean what they mean for `nn.Embedding` (rows are renormed before they are
    quantised). Else the whole table is quantised in every call.

    ValueError for slots that draw at random or have a stateful scale, and for `sparse` and `max_norm` with a table that
    is quantised as a whole.
    """

    recipe: Recipe

    def __init__(
        self,
        *args: Any,
        recipe: str | Recipe = "fp8_row",
        scheme: str | Scheme | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self._set_recipe(recipe, scheme, seed)

    @classmethod
    def from_embedding(
        cls,
        embedding: nn.Embedding,
        recipe: str | Recipe = "fp8_row",
        *,
        scheme: str | Scheme | None = None,
        seed: int = 0,
    ) -> QuantEmbedding:
        """A QuantEmbedding that shares the table of `embedding`."""
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        for name in nn.Embedding.__constants__:
            new.__dict__[name] = embedding.__dict__[name]
        new.weight = embedding.weight
        new._set_recipe(recipe, scheme, seed)
        new.train(embedding.training)
        return new

    def _set_recipe(self, recipe: str | Recipe, scheme: str | Scheme | None, seed: int) -> None:
        chosen = get_recipe(recipe) if scheme is None else make_recipe(str(scheme), w_fprop=scheme)
        slot = chosen.w_fprop
        if slot is not None:
            _check(slot, chosen.name)
        self.recipe, self.seed = chosen, seed
        self._slot = None if slot is None else str(slot)
        self._by_row = _is_by_row(slot) and chosen.weight_map is None
        whole = self._slot is not None and not self._by_row
        for name, value in (("sparse", self.sparse), ("max_norm", self.max_norm)):
            if whole and value:
                raise ValueError(
                    f"{name}: got {value}, but {slot} quantises the table as a whole; accepted: schemes by row"
                )
        if chosen.weight_map is not None:
            self.weight_map = parse_map(chosen.weight_map)
            self.weight_map.prepare(self.weight, self._slot)

    def forward(self, input: Tensor) -> Tensor:
        """Raises what `nn.Embedding` raises."""
        if self._slot is None or self._by_row:
            rows = super().forward(input)
            if self._slot is None:
                return rows
            flat = rows.reshape(input.numel(), self.embedding_dim)
            return _straight_through(flat, self._slot).view(rows.shape)
        table = _straight_through(mapped_weight(self, self.weight), self._slot)
        return F.embedding(input, table, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)

    def extra_repr(self) -> str:
        """That of `nn.Embedding`, and the scheme of the table."""
        return f"{super().extra_repr()}, weight={self._slot}"


def _straight_through(x: Tensor, text: str) -> Tensor:
    result: Tensor = _StraightThrough.apply(x, text)  # type: ignore[no-untyped-call]
    return result


def _is_by_row(slot: AnyScheme | None) -> bool:
    """Whether a row is quantised without looking at others."""
    return isinstance(slot, Scheme) and slot.tile[0] == 1 and not slot.two_level


def _check(slot: AnyScheme, name: str) -> None:
    if draws_anew(slot):
        raise ValueError(f"recipe: w_fprop={slot} of {name!r} draws at random, which a table cannot")
    if not isinstance(slot, Scheme) and slot.scaling is not None:
        raise ValueError(f"recipe: w_fprop={slot} of {name!r} has a stateful scale, which a table has not")
