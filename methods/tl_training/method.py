"""The plug-in: cross-entropy in which key tokens of a call weigh more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.methods.tl_training.experiment import tl_training_experiment
from narrowgauge.methods.tl_training.weights import loss_weights
from narrowgauge.train import Batch, Experiment, PublishedMethod, register
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.method import Metrics


@register
@dataclass(eq=False)
class TLTraining(PublishedMethod):
    """Weighs key tokens; reads the batches of :func:`tool_source`, whose ``mask_errors`` leaves failed calls out.

    ``max_weight`` ≥ 1: the most that a key token may weigh against others; 1 is ordinary cross-entropy.
    Raises ``ValueError`` for another weight, and for batches without ``token_class``.
    """

    name = "tl_training"
    summary = "tool use: never learn failed calls, weigh the tokens that decide which tool is called, reward by fault"
    paper = "TL-Training: A Task-Feature-Based Framework for Training Large Language Models in Tool Use (EMNLP 2025)"
    arxiv = "2412.15495"
    usage = (
        "data = tool_source(train, held_out, tools=TOOLS, batch_size=16, seq_len=112, seed=0)\n"
        "Trainer(model, data, optimizer, methods=[TLTraining(max_weight=9)])"
    )

    max_weight: float = 9.0

    def __post_init__(self) -> None:
        if not self.max_weight >= 1:
            raise ValueError(f"max_weight: expected a number of at least 1, got {self.max_weight!r}")

    def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        """Add ``loss_weight`` [B, T] float32, made of ``token_class``."""
        if "token_class" not in batch:
            raise ValueError(
                f"data: tl_training reads batches with token_class, as tool_source makes them; got {', '.join(batch)}"
            )
        return batch | {"loss_weight": loss_weights(batch["token_class"], self.max_weight)}

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """``Σ weight · ce`` over the number of labels, in nats."""
        return weighted_cross_entropy(model(batch["input_ids"]), batch["labels"], batch["loss_weight"]), {}

    @classmethod
    def experiment(cls) -> Experiment:
        """Sampled calls after training with and without the two parts."""
        return tl_training_experiment(cls)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """``Σ weight · ce / number of labels`` [], of ``logits`` [B, T, V], ``labels`` and ``weights`` [B, T]."""
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none")
    return (losses * weights.flatten()).sum() / (labels != IGNORED_LABEL).sum()
