import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.train.restore import restore_model, restore_optimizer
from narrowgauge.train.tree import flatten, unflatten


class Coded(torch.optim.Optimizer):
    """Keeps state of every kind: codes, scales, counters, nested."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1, "betas": (0.9, 0.99), "mode": "coded", "limit": None})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {
                    "codes": torch.arange(p.numel(), dtype=torch.uint8),
                    "signed": torch.tensor([-1], dtype=torch.int8),
                    "scale": torch.tensor(0.1, dtype=torch.float64),
                    "half": torch.tensor([1.5], dtype=torch.bfloat16),
                    "step": torch.tensor(3, dtype=torch.int64),
                    "count": 4,
                    "packed": {"pair": (torch.tensor([7], dtype=torch.int16), [torch.zeros(0)])},
                }


def test_optimizer_state_of_any_dtype_is_not_changed() -> None:
    model = nn.Linear(3, 2).to(torch.float32)
    optimizer = Coded(model.named_parameters())
    optimizer.step()
    saved = unflatten(*flatten(optimizer.state_dict()))
    fresh = Coded(nn.Linear(3, 2).named_parameters())
    restore_optimizer(fresh, saved)
    before, after = flatten(optimizer.state_dict()), flatten(fresh.state_dict())
    assert before[0] == after[0]
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    assert [t.dtype for t in before[1].values()] == [t.dtype for t in after[1].values()]


def test_adamw_continues_with_the_same_bits() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(model, optimizer)
    twin = copy.deepcopy(model)
    twin_optimizer = torch.optim.AdamW(twin.parameters(), lr=0.5)
    restore_optimizer(twin_optimizer, copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer)
    step(twin, twin_optimizer)
    assert torch.equal(model.weight, twin.weight)


def test_groups_of_other_parameters_are_refused() -> None:
    first, second = nn.ModuleDict({"a": nn.Linear(2, 2)}), nn.ModuleDict({"b": nn.Linear(2, 2)})
    saved = Coded(first.named_parameters()).state_dict()
    with pytest.raises(ValueError, match="optimizer: the checkpoint's parameter groups hold other parameters"):
        restore_optimizer(Coded(second.named_parameters()), saved)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(3, 2), r"model: bias is torch.float32 \[2\] in the checkpoint, absent in this model"),
        (nn.Linear(4, 2, bias=False), r"model: weight is torch.float32 \[2, 4\] in the checkpoint"),
        (nn.Linear(3, 2, bias=False, dtype=torch.bfloat16), "model: weight is torch.bfloat16"),
    ],
)
def test_a_model_that_differs_is_refused_and_not_touched(other: nn.Module, message: str) -> None:
    model = nn.Linear(3, 2, bias=False)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match=message):
        restore_model(model, other.state_dict())
    assert torch.equal(model.weight, before)
