"""Policy gradients and preferences in the ordinary trainer: what binds rollouts, reference and loss together.

:class:`GRPO` and :class:`PPO` take their batches from a :class:`~narrowgauge.train.rl.source.RolloutSource`;
:class:`Preference` takes pairs from any source. A published method that needs one of them derives from it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from narrowgauge.train.data import Batch, BatchSource
from narrowgauge.train.method import Method, Metrics
from narrowgauge.train.rl.advantages import generalized_advantages, group_advantages, whiten
from narrowgauge.train.rl.dpo import dpo_loss
from narrowgauge.train.rl.grpo import grpo_loss
from narrowgauge.train.rl.logprobs import label_mask, logits_logprobs, token_logprobs
from narrowgauge.train.rl.ppo import add_value_head, logits_and_values, ppo_loss, token_rewards
from narrowgauge.train.rl.reference import Reference
from narrowgauge.train.rl.source import RolloutSource
from narrowgauge.train.rl.surrogate import Aggregation

LOGGED = ("reward", "completion_length")


@dataclass(eq=False)
class WithReference(Method):
    """A method that may keep the model of the run's beginning, in its state too."""

    reference: Reference | None = field(default=None, init=False, repr=False)

    def wants_reference(self) -> bool:
        """Whether a reference is kept."""
        return True

    def attach(self, model: nn.Module) -> None:
        """Copy the model."""
        self.reference = Reference(model) if self.wants_reference() else None

    def state_dict(self) -> dict[str, Any]:
        """The reference's weights."""
        return {} if self.reference is None else {"reference": self.reference.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved reference; ``ValueError`` when one of the two runs has none."""
        if ("reference" in state) != (self.reference is not None):
            raise ValueError("kl_coef: the saved run and this one do not both keep a reference model")
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])


@dataclass(eq=False)
class PolicyGradient(WithReference, ABC):
    """Binds the run's :class:`RolloutSource` to the model. ``kl_coef`` above 0 keeps a reference.

    Logs the mean of each reward and of the completions' length. Derived classes give :meth:`finish` and
    :meth:`policy_loss`.
    """

    clip: float = 0.2
    kl_coef: float = 0.0
    rollouts: RolloutSource | None = field(default=None, init=False, repr=False)

    def wants_reference(self) -> bool:
        """With a penalty alone."""
        return self.kl_coef > 0

    def source(self, data: BatchSource) -> BatchSource:
        """Remember the source; ``TypeError`` for one that is no :class:`RolloutSource`."""
        if not isinstance(data, RolloutSource):
            raise TypeError(f"data: {type(self).__name__} expects a RolloutSource, got {type(data).__name__}")
        self.rollouts = data
        return data

    def attach(self, model: nn.Module) -> None:
        """Keep the reference, and let the model write the rollouts."""
        super().attach(model)
        if self.rollouts is not None:
            self.rollouts.bind(model, self.finished)

    def finished(self, policy: nn.Module, batch: Batch, rewards: Tensor) -> Batch:
        """Add ``ref_logprobs`` [B, T] where there is a reference, and what :meth:`finish` adds."""
        if self.reference is not None:
            ref_logprobs = self.reference.token_logprobs(batch["input_ids"], batch["labels"])
            batch = batch | {"ref_logprobs": ref_logprobs}
        return self.finish(policy, batch, rewards)

    @abstractmethod
    def finish(self, policy: nn.Module, batch: Batch, rewards: Tensor) -> Batch:
        """The batch with ``advantages``, from ``rewards`` [P, G]; called without gradient."""

    @abstractmethod
    def policy_loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss [] of a finished batch, and metrics."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """:meth:`policy_loss`, and the rollouts' own metrics."""
        loss, metrics = self.policy_loss(model, batch)
        return loss, metrics | {name: tensor.mean().item() for name, tensor in batch.items() if name.startswith(LOGGED)}


@dataclass(eq=False)
class GRPO(PolicyGradient):
    """Group relative policy optimization; the settings are those of :func:`grpo_loss` and
    :func:`~narrowgauge.train.rl.advantages.group_advantages`."""

    name: ClassVar[str] = "grpo"

    clip_high: float | None = None
    aggregation: Aggregation = "sequence"
    scale_by_std: bool = True

    def finish(self, policy: nn.Module, batch: Batch, rewards: Tensor) -> Batch:
        """Add ``advantages`` [B]."""
        return batch | {"advantages": group_advantages(rewards, scale_by_std=self.scale_by_std).flatten()}

    def policy_loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """:func:`grpo_loss`."""
        return grpo_loss(
            token_logprobs(model, batch["input_ids"], batch["labels"]),
            batch["old_logprobs"],
            batch["advantages"],
            label_mask(batch["labels"]),
            batch.get("ref_logprobs"),
            clip=self.clip,
            clip_high=self.clip_high,
            kl_coef=self.kl_coef,
            aggregation=self.aggregation,
        )


@dataclass(eq=False)
class PPO(PolicyGradient):
    """Proximal policy optimization with a value head on a Llama; the settings are those of :func:`ppo_loss`,
    :func:`token_rewards` and :func:`generalized_advantages`. Advantages are whitened over the batch.

    The trainer needs a function groups → optimizer, as the model gets a ``value_head``.
    """

    name: ClassVar[str] = "ppo"

    value_clip: float = 0.2
    value_coef: float = 0.5
    gamma: float = 1.0
    lam: float = 0.95

    def surgery(self, model: nn.Module) -> tuple[nn.Module, None]:
        """Add the value head, unless an earlier phase did."""
        return (model if hasattr(model, "value_head") else add_value_head(model)), None

    def finish(self, policy: nn.Module, batch: Batch, rewards: Tensor) -> Batch:
        """Add ``old_values``, ``advantages`` and ``returns`` [B, T]."""
        mask = label_mask(batch["labels"])
        values = logits_and_values(policy, batch["input_ids"])[1].where(mask, 0.0)
        stepwise = token_rewards(
            rewards.flatten(), mask, batch["old_logprobs"], batch.get("ref_logprobs"), kl_coef=self.kl_coef
        )
        advantages, returns = generalized_advantages(stepwise, values, mask, gamma=self.gamma, lam=self.lam)
        return batch | {"old_values": values, "advantages": whiten(advantages, mask), "returns": returns}

    def policy_loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """:func:`ppo_loss`."""
        logits, values = logits_and_values(model, batch["input_ids"])
        return ppo_loss(
            logits_logprobs(logits, batch["labels"]),
            batch["old_logprobs"],
            values,
            batch["old_values"],
            batch["advantages"],
            batch["returns"],
            label_mask(batch["labels"]),
            clip=self.clip,
            value_clip=self.value_clip,
            value_coef=self.value_coef,
        )


@dataclass(eq=False)
class Preference(WithReference):
    """DPO on pairs. The first half of a batch's rows are the chosen completions, the second half, in the same order,
    the rejected ones; ``valid`` [rows] bool, if there, is false in both rows of a pair that does not count.

    The reference is the model of the run's beginning. Settings: see :func:`dpo_loss`.
    """

    name: ClassVar[str] = "preference"

    beta: float = 0.1
    nll_coef: float = 0.0

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """:func:`dpo_loss`; ``ValueError`` for an odd number of rows."""
        ids, labels = batch["input_ids"], batch["labels"]
        if len(ids) % 2 or self.reference is None:
            raise ValueError(f"input_ids: expected as many rejected rows as chosen ones, got {len(ids)} rows in all")
        chosen, rejected = token_logprobs(model, ids, labels).sum(1).chunk(2)
        ref_chosen, ref_rejected = self.reference.token_logprobs(ids, labels).sum(1).chunk(2)
        valid = batch["valid"].chunk(2)[0] if "valid" in batch else None
        lengths = label_mask(labels).sum(1).chunk(2)[0]
        return dpo_loss(
            chosen,
            rejected,
            ref_chosen,
            ref_rejected,
            beta=self.beta,
            nll_coef=self.nll_coef,
            valid=valid,
            chosen_lengths=lengths,
        )
