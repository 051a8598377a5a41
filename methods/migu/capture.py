"""How strongly each output unit of each linear layer answered during a step.

For a layer with output ``h`` [..., N], over all tokens of the step's micro-batches: ``n_i = Σ_tokens |h_i|``, float32.
Dividing by ``Σ_i n_i``, as the paper writes it, changes no order and is left out. An adapter's ``A`` [r, K] is measured
by its own output ``A x``, its ``B`` [N, r] by the output of base and adapter together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from narrowgauge.nn import LoRALinear
from narrowgauge.nn.layer_choice import matches


@dataclass(eq=False)
class Rows:
    """Trainable parameters, by name, whose first axis counts the same output units, and ``total`` [N] = n."""

    parameters: dict[str, nn.Parameter]
    total: Tensor | None = None

    def add(self, output: Tensor, counts: Tensor | None) -> None:
        """Sum ``|output|`` [..., N] over the tokens; those where ``counts`` [...] is false are left out.

        Tokens that a layer sees in another arrangement than the model's input all count.
        """
        size = output.detach().abs()
        if counts is not None and counts.shape == size.shape[:-1]:
            size = size[counts]
        summed = size.flatten(0, -2).sum(0, dtype=torch.float32)
        self.total = summed if self.total is None else self.total + summed


class Capture:
    """Forward hooks on the linear layers of ``model`` that have trainable weights, except those in ``skip``.

    Only forward passes in training mode that are differentiated count. Tokens ``pad`` of the model's integer input do
    not. Raises ``ValueError`` when no layer is left.
    """

    def __init__(self, model: nn.Module, skip: Collection[str], pad: int | None) -> None:
        self.pad = pad
        self._counts: Tensor | None = None
        self._handles: list[RemovableHandle] = []
        self._names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        self._rows: dict[int, Rows] = {}  # by weight: layers that share one share its sum
        for name, module in model.named_modules():
            if not any(matches(pattern, name) for pattern in skip):
                self._watch(module)
        if not self._rows:
            raise ValueError(f"model: expected a linear layer with trainable weights beside those in {tuple(skip)}")
        self._handles.append(model.register_forward_pre_hook(self._note_tokens, with_kwargs=True))

    @property
    def rows(self) -> list[Rows]:
        """All watched parameters, in the order of the model."""
        return list(self._rows.values())

    def _rows_of(self, weight: Tensor, bias: Tensor | None = None) -> Rows | None:
        named = {self._names[id(p)]: p for p in (weight, bias) if isinstance(p, nn.Parameter) and id(p) in self._names}
        return self._rows.setdefault(id(weight), Rows(named)) if named else None

    def _watch(self, module: nn.Module) -> None:
        if isinstance(module, LoRALinear):
            inner, outer = self._rows_of(module.lora_A), self._rows_of(module.lora_B)
            if inner is not None:
                self._hook(module, inner, lambda x: F.linear(x.to(module.lora_A.dtype), module.lora_A))
            if outer is not None:
                self._hook(module, outer)
        elif isinstance(module, nn.Linear) and (rows := self._rows_of(module.weight, module.bias)) is not None:
            self._hook(module, rows)

    def _hook(self, module: nn.Module, rows: Rows, of_input: Callable[[Tensor], Tensor] | None = None) -> None:
        def add(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if layer.training and torch.is_grad_enabled():
                with torch.no_grad():
                    rows.add(output if of_input is None else of_input(inputs[0]), self._counts)

        self._handles.append(module.register_forward_hook(add))

    def _note_tokens(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = inputs[0] if inputs else named.get("input_ids")
        self._counts = None
        if self.pad is not None and isinstance(ids, Tensor) and not ids.is_floating_point():
            self._counts = torch.ne(ids, self.pad)

    def clear(self) -> None:
        """Forget the sums: a step begins."""
        for rows in self._rows.values():
            rows.total = None

    def reduce(self) -> None:
        """Make the sums those of all ranks, where there are several; their mean has the same order."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for rows in self._rows.values():
                if rows.total is not None:
                    dist.all_reduce(rows.total)

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
