"""The plug-in: of each prefix's candidates, the best (and the worst) go into the loss."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.methods.self_improving.candidates import CandidateSource
from narrowgauge.train.data import Batch, BatchSource
from narrowgauge.train.method import Metrics
from narrowgauge.train.rl import Preference, preference_pairs, reward_filtered_nll, token_logprobs
from narrowgauge.train.rl.logprobs import label_mask

OBJECTIVES = ("rf_nll", "dpo")


@dataclass(eq=False)
class JudgedCandidates(Preference):
    """Reward-filtered NLL, or DPO of best against worst, on a :class:`CandidateSource`.

    ``objective``: ``"rf_nll"`` or ``"dpo"``; ``beta`` and ``nll_coef`` are DPO's, whose reference is the model of the
    run's beginning. Logs ``chosen_rate``, the share of best candidates that the policy wrote itself, and
    ``best_reward``. Raises ``ValueError`` for another objective, ``TypeError`` for another source.
    """

    objective: str = "dpo"
    candidates: CandidateSource | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {self.objective!r}")

    def wants_reference(self) -> bool:
        """With DPO alone."""
        return self.objective == "dpo"

    def source(self, data: BatchSource) -> BatchSource:
        """Remember the source."""
        if not isinstance(data, CandidateSource):
            raise TypeError(f"data: {type(self).__name__} expects a CandidateSource, got {type(data).__name__}")
        self.candidates = data
        return data

    def attach(self, model: nn.Module) -> None:
        """Keep the reference, and let the model write the rollouts."""
        super().attach(model)
        if self.candidates is not None:
            self.candidates.bind(model)

    def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        """Keep the rows of the best candidates; with DPO then those of the worst, and ``valid`` where they differ."""
        assert self.candidates is not None  # the batch is its
        rewards = batch["candidate_reward"].view(-1, self.candidates.num_candidates)
        best, worst, differ = preference_pairs(rewards)
        starts = torch.arange(len(rewards)) * self.candidates.num_candidates
        rows = torch.cat([starts + best, starts + worst]) if self.objective == "dpo" else starts + best
        picked = {name: tensor[rows] for name, tensor in batch.items()}
        return picked | {"valid": differ.repeat(2)} if self.objective == "dpo" else picked

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """See :mod:`narrowgauge.train.rl.dpo`."""
        if self.objective == "dpo":
            loss, metrics = super().loss(model, batch)
            best = len(batch["labels"]) // 2
            metrics["best_reward"] = batch["candidate_reward"][:best].mean().item()
        else:
            best = len(batch["labels"])
            logprobs = token_logprobs(model, batch["input_ids"], batch["labels"]).sum(1, keepdim=True)
            lengths = label_mask(batch["labels"]).sum(1, keepdim=True)
            # Each prefix has one candidate left: the best.
            loss, metrics = reward_filtered_nll(logprobs, lengths, batch["candidate_reward"].unsqueeze(1))
        return loss, metrics | {"chosen_rate": batch["is_rollout"][:best].float().mean().item()}

    def state_dict(self) -> dict[str, Any]:
        """The objective and the reference."""
        return super().state_dict() | {"objective": self.objective}

    def load_state_dict(self, state: Any) -> None:
        """Take over a saved reference; ``ValueError`` when the run had another objective."""
        if state["objective"] != self.objective:
            raise ValueError(f"objective: the saved run has {state['objective']!r}, this one {self.objective!r}")
        super().load_state_dict({key: value for key, value in state.items() if key != "objective"})
