"""The phases, one after another and each by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from narrowgauge.methods.pcp.classifier import predict
from narrowgauge.methods.pcp.rows import Row, build_corpus, row_stream, tuning_rows
from narrowgauge.methods.pcp.template import Prompt, Text

Fit = Callable[..., Any]
"""``fit(model, source, steps, lr=…)`` trains the model in place, with an optimizer of its own: ``Context.fit``, say."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the phases made: the classifier, the model it was tuned from, and the pseudo labels, int64 [n]."""

    classifier: nn.Module
    pretrained: nn.Module
    pseudo_labels: Tensor


@dataclass(frozen=True, slots=True)
class Phases:
    """The phases for one prompt; every tuning has the same steps, whatever it starts from.

    ``seed`` orders the rows. No phase changes the model that it is given: each trains a copy. Raises ``ValueError`` for
    steps, rates or batches that are not above 0.
    """

    prompt: Prompt
    tuning_steps: int = 80
    tuning_lr: float = 1e-3
    pretraining_steps: int = 250
    pretraining_lr: float = 1e-3
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tuning_steps", "tuning_lr", "pretraining_steps", "pretraining_lr", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)!r}")

    def tune(self, model: nn.Module, texts: Sequence[Text], labels: Sequence[int], fit: Fit) -> nn.Module:
        """Prompt-based fine-tuning on labelled texts; the loss is the word's."""
        rows = tuning_rows(texts, labels, self.prompt)
        return self._train(model, rows, self.tuning_steps, self.tuning_lr, fit)

    def pretrain(self, model: nn.Module, rows: Sequence[Row], fit: Fit) -> nn.Module:
        """Continued pre-training on a corpus: :func:`~narrowgauge.methods.pcp.build_corpus`, or ``raw_corpus``."""
        return self._train(model, rows, self.pretraining_steps, self.pretraining_lr, fit)

    def run(
        self, model: nn.Module, texts: Sequence[Text], labels: Sequence[int], unlabelled: Sequence[Text], fit: Fit
    ) -> Outcome:
        """All phases: tune, label, pre-train from ``model``, tune again."""
        labeller = self.tune(model, texts, labels, fit)
        pseudo_labels, _ = predict(labeller, self.prompt, unlabelled)
        pretrained = self.pretrain(model, build_corpus(unlabelled, pseudo_labels.tolist(), self.prompt), fit)
        return Outcome(self.tune(pretrained, texts, labels, fit), pretrained, pseudo_labels)

    def _train(self, model: nn.Module, rows: Sequence[Row], steps: int, lr: float, fit: Fit) -> nn.Module:
        trained = copy.deepcopy(model)
        fit(trained, row_stream(rows, self.prompt, batch_size=self.batch_size, seed=self.seed), steps, lr=lr)
        return trained
