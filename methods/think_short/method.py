"""The plug-in: GRPO on rollouts that get a budget into their prompts and a length reward."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.methods.think_short.schedule import ExponentialBudget, LinearBudget
from narrowgauge.train.data import Batch, BatchSource
from narrowgauge.train.method import Metrics
from narrowgauge.train.rl import GRPO, RolloutSource, band_length, triangular_length
from narrowgauge.train.rl.rewards import Completion, Reward
from narrowgauge.train.rl.source import PromptItem

LENGTH = "length"
SHAPES = {"triangle": triangular_length, "band": band_length}


@dataclass(frozen=True, slots=True)
class Budgeted:
    """An item of the run's source, with the prompt that names the budget."""

    item: PromptItem
    prompt: bytes
    budget: int


def in_words(item: PromptItem, budget: int) -> bytes:
    """The item's prompt, and a sentence with the budget."""
    return item.prompt + b"\nThink in at most %d tokens.\n" % budget


def length_in_tokens(completion: Completion) -> int:
    """Tokens of the whole completion, its end included."""
    return len(completion) + completion.ended


@dataclass(eq=False)
class ThinkShortGRPO(GRPO):
    """GRPO whose rollouts keep a budget that shrinks.

    The run's source is a :class:`~narrowgauge.train.rl.RolloutSource` with the rewards for right answers and form.
    ``schedule`` maps its rounds (a round is a step, unless the source makes several with one, or gradients are
    accumulated) to budgets; ``write(item, budget)`` makes the prompt; ``shape`` and ``weight`` are those of the length
    reward, which is added to the others as ``reward_length``. The budget of the round is logged as ``budget``. Raises
    ``ValueError`` for settings outside their range, and for a source that has a reward called ``length`` already.
    """

    schedule: ExponentialBudget | LinearBudget = ExponentialBudget()  # noqa: RUF009 - it is frozen
    shape: str = "triangle"
    weight: float = 0.6
    write: Callable[[Any, int], bytes] = in_words

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape: expected one of {', '.join(SHAPES)}, got {self.shape!r}")
        if self.weight < 0:
            raise ValueError(f"weight: expected 0 or more, got {self.weight!r}")

    def source(self, data: BatchSource) -> BatchSource:
        """The same rounds with budgets and the length reward; ``data`` itself is not changed."""
        plain = super().source(data)
        assert isinstance(plain, RolloutSource)  # GRPO takes no other
        if LENGTH in plain.rewards:
            raise ValueError(f"data: the source has a reward {LENGTH!r} already, think_short adds its own")
        budgeted = copy.copy(plain)
        budgeted.prompts = lambda index: [self.budgeted(item, self.schedule(index)) for item in plain.prompts(index)]
        budgeted.rewards = {name: _of_item(reward) for name, reward in plain.rewards.items()} | {LENGTH: self.reward}
        budgeted.weights = plain.weights | {LENGTH: self.weight}
        self.rollouts = budgeted
        return budgeted

    def budgeted(self, item: PromptItem, budget: int) -> Budgeted:
        """The item under a budget."""
        return Budgeted(item, self.write(item, budget), budget)

    def reward(self, item: Budgeted, completion: Completion) -> float:
        """The length reward, in [0, 1]: the budget is the one that the prompt names."""
        return SHAPES[self.shape](length_in_tokens(completion), item.budget)

    def finish(self, policy: nn.Module, batch: Batch, rewards: Tensor) -> Batch:
        """Add ``advantages`` and ``budget`` [B]."""
        assert self.rollouts is not None  # it is the source that calls
        budget = self.schedule(self.rollouts.position // self.rollouts.inner_steps)
        return super().finish(policy, batch, rewards) | {"budget": torch.full((rewards.numel(),), float(budget))}

    def policy_loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """:func:`~narrowgauge.train.rl.grpo_loss`, and the budget."""
        loss, metrics = super().policy_loss(model, batch)
        return loss, metrics | {"budget": batch["budget"].mean().item()}

    def state_dict(self) -> dict[str, Any]:
        """The reference, and the schedule that the run has followed."""
        return super().state_dict() | {"schedule": repr(self.schedule)}

    def load_state_dict(self, state: Any) -> None:
        """Take over a saved state; ``ValueError`` when the run had another schedule."""
        if state["schedule"] != repr(self.schedule):
            raise ValueError(f"schedule: the saved run has {state['schedule']}, this one {self.schedule!r}")
        super().load_state_dict({key: value for key, value in state.items() if key != "schedule"})


def _of_item(reward: Reward) -> Reward:
    return lambda budgeted, completion: reward(budgeted.item, completion)
