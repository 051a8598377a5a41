"""Rollouts as a source of batches: prompts, completions by the policy as it is now, rewards, advantages.

A round takes the items of that round, draws ``group_size`` completions for each prompt from the policy, gives each
its reward, and makes one batch of them, which is handed out ``inner_steps`` times. With more than one, the later
steps are off policy, which is what the clipped ratio is for.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch
from narrowgauge.train.decoding import device_of, eval_mode
from narrowgauge.train.generate import Rollouts, sample
from narrowgauge.train.position import Positioned
from narrowgauge.train.rl.logprobs import label_mask, token_logprobs
from narrowgauge.train.rl.rewards import Completion, Reward, total_reward
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.tokens import encode


class PromptItem(Protocol):
    """Anything with a prompt; rewards may look for more (an ``Example`` of the tasks has an ``answer``)."""

    @property
    def prompt(self) -> bytes:
        """Not empty."""
        ...


Sampler = Callable[[nn.Module, Sequence[Sequence[int]], int, torch.Generator], Rollouts]
"""(policy, P prompts, G, generator) to P · G rows at temperature 1, those of one prompt together."""
Finish = Callable[[nn.Module, Batch, Tensor], Batch]
"""(policy, batch, rewards [P, G]) to the batch with advantages, and what else the loss needs; without gradient."""


class RolloutSource(Positioned):
    """A :class:`~narrowgauge.train.data.BatchSource` whose batches the policy writes itself.

    ``prompts(round)`` gives the items of a round, as a function of the round alone. ``rewards`` are named functions
    of (item, completion), summed with ``weights`` (1 where absent). ``inner_steps`` steps are made with each batch.
    ``validation_batches``: what the trainer's ``val_loss`` is measured on (right answers, say). ``sampler``: by
    default :func:`narrowgauge.train.generate.sample` with ``max_new_tokens``.

    A batch has, besides ``input_ids`` and ``labels`` [P·G, T]: ``old_logprobs`` [P·G, T]; ``reward`` and
    ``completion_length`` (in tokens, without EOS) [P·G]; ``reward_NAME`` [P·G] for each named reward when there are
    several; and what the method of the run adds to it. All are on the CPU.

    The source is used with a :class:`~narrowgauge.train.rl.method.PolicyGradient`, which tells it the model
    (:meth:`bind`). Raises ``ValueError`` for sizes below 1, no rewards, and weights of rewards that there are not.
    """

    def __init__(
        self,
        prompts: Callable[[int], Sequence[PromptItem]],
        rewards: Mapping[str, Reward],
        *,
        group_size: int,
        max_new_tokens: int,
        weights: Mapping[str, float] | None = None,
        inner_steps: int = 1,
        seed: int = 0,
        validation_batches: Sequence[Batch] = (),
        sampler: Sampler | None = None,
    ) -> None:
        for name, size in (
            ("group_size", group_size),
            ("max_new_tokens", max_new_tokens),
            ("inner_steps", inner_steps),
            ("rewards", len(rewards)),
        ):
            if size < 1:
                raise ValueError(f"{name}: expected at least 1, got {size}")
        self.prompts, self.rewards, self.weights = prompts, dict(rewards), dict(weights or {})
        total_reward(dict.fromkeys(self.rewards, 0.0), self.weights)
        self.group_size, self.max_new_tokens, self.inner_steps = group_size, max_new_tokens, inner_steps
        self.seed, self.validation_batches = seed, list(validation_batches)
        self.position = 0
        self._sampler = self._sample if sampler is None else sampler
        self._policy: nn.Module | None = None
        self._finish: Finish | None = None
        self._batch: Batch = {}

    def bind(self, policy: nn.Module, finish: Finish) -> None:
        """Say who writes the completions and what makes advantages of rewards."""
        self._policy, self._finish = policy, finish

    def __iter__(self) -> "RolloutSource":
        return self

    def __next__(self) -> Batch:
        index, inner = divmod(self.position, self.inner_steps)
        if inner == 0:
            self._batch = self.rollout(index)
        self.position += 1
        return dict(self._batch)

    @torch.no_grad()
    def rollout(self, index: int) -> Batch:
        """The batch of a round, written by the policy as it is now, in evaluation mode.

        Raises ``ValueError`` before :meth:`bind`, and for a round without items.
        """
        if self._policy is None or self._finish is None:
            raise ValueError(
                "data: a RolloutSource needs a policy: give the trainer a PolicyGradient method, or bind()"
            )
        items = list(self.prompts(index))
        if not items:
            raise ValueError(f"prompts: expected at least one item, got none for round {index}")
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "rollout", index))
        with eval_mode(self._policy):
            rows = self._sampler(self._policy, [encode(item.prompt) for item in items], self.group_size, generator)
            batch = rows.batch() | self._scored(items, rows.labels)
            batch = {name: tensor.to(device_of(self._policy)) for name, tensor in batch.items()}
            batch["old_logprobs"] = token_logprobs(self._policy, batch["input_ids"], batch["labels"])
            batch = self._finish(self._policy, batch, batch["reward"].view(len(items), self.group_size))
        return {name: tensor.cpu() for name, tensor in batch.items()}

    def _scored(self, items: Sequence[PromptItem], labels: Tensor) -> Batch:
        rows = [row[mask].tolist() for row, mask in zip(labels, label_mask(labels), strict=True)]
        if len(rows) != len(items) * self.group_size:
            raise ValueError(f"sampler: expected {len(items)} · {self.group_size} rows, got {len(rows)}")
        completions = [Completion.from_ids(ids) for ids in rows]
        parts = [
            {name: float(reward(items[row // self.group_size], completion)) for name, reward in self.rewards.items()}
            for row, completion in enumerate(completions)
        ]
        scored = {
            "reward": torch.tensor([total_reward(part, self.weights) for part in parts]),
            "completion_length": torch.tensor([float(len(completion)) for completion in completions]),
        }
        if len(self.rewards) > 1:
            scored |= {f"reward_{name}": torch.tensor([part[name] for part in parts]) for name in self.rewards}
        return scored

    def _sample(
        self, policy: nn.Module, prompts: Sequence[Sequence[int]], group_size: int, generator: torch.Generator
    ) -> Rollouts:
        return sample(policy, prompts, max_new_tokens=self.max_new_tokens, num_samples=group_size, generator=generator)

    def validation(self) -> list[Batch]:
        """The batches given as ``validation_batches``."""
        return self.validation_batches

    def identity(self) -> dict[str, Any]:
        """What a position is a position in, but for prompts and rewards, which are functions."""
        return {
            "seed": self.seed,
            "group_size": self.group_size,
            "max_new_tokens": self.max_new_tokens,
            "inner_steps": self.inner_steps,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position, and the batch that it is within, which a later policy could not write again."""
        unfinished = self.position % self.inner_steps != 0
        return {**super().state_dict(), "batch": dict(self._batch) if unfinished else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved position; ``ValueError`` when it was saved by a source of other rollouts."""
        super().load_state_dict(state)
        self._batch = dict(state["batch"])
