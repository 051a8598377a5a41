"""Masked Thought: supervised fine-tuning on chains of thought with some of the chain's tokens destroyed in the input.

Paper: Chen et al., "Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical Reasoning Learning
of Language Models", ACL 2024, arXiv:2403.02178.

Mechanism. Let ``S`` be the positions of the answer (reasoning included). The labels stay, the input is damaged::

    M_t ~ Bernoulli(rate(step))  for t in S,    M_t = 0 elsewhere
    x'_t = noise_t  where M_t = 1,  else x_t
    L = -1/|S| Σ_{t in S} log p(x_t | x'_{<t})              damaged positions are still predicted
    rate(step) = min(p, p · step / (0.66 · steps + 1))      steps: optimizer steps of the whole training

so that the model has to look at the question instead of trusting the reasoning so far. ``noise_t`` is a token drawn
uniformly (what the authors' main script does), or one mask token, whose embedding starts as the mean of all others.
The damage is drawn anew each time an example is seen, and evaluation is not damaged. The paper's p is 0.4 on small
sets of questions and 0.1 … 0.2 on large or augmented ones; the same noise on the question hurts, and on everything it
makes training collapse (its section 4). ``where`` has both as controls.

Here the step that counts is the optimizer's; the authors' code counts calls of the collator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.train import Batch, Claim, Context, Experiment, PublishedMethod, register, tiny_llama
from narrowgauge.train.decoding import device_of, eval_mode
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.tasks import Example, TaskSource, accuracy, batch_of
from narrowgauge.train.tasks.addition import addition, with_wrong_digits
from narrowgauge.train.tasks.answers import RESULT
from narrowgauge.train.tokens import EOS, MASK, PAD, VOCAB_SIZE

RAMP_SHARE = 0.66
NOISES = ("random", "mask")
PLACES = ("answer", "question", "all")
SEQ_LEN = 26
"""Tokens of ``38+47=8+7=15;3+4+1=08;#085`` in the experiment."""


@register
@dataclass(eq=False)
class MaskedThought(PublishedMethod):
    """Damages ``input_ids`` and leaves ``labels``; for data whose questions have no labels, such as ``TaskSource``.

    ``rate``: p in [0, 1]. ``steps``: optimizer steps of the whole training, for the ramp; 0: ``rate`` from the first
    step on. ``noise``: ``"random"`` draws from tokens 0 … ``tokens - 1``, ``"mask"`` puts ``mask_token``. ``where``:
    ``"answer"`` is the method, ``"question"`` and ``"all"`` are controls. ``fresh_mask``: the mask token's embedding is
    set to the mean of the others before training; not wanted where the model knows the token already. Raises
    ``ValueError`` for other values, and for a model whose vocabulary has no ``mask_token``.
    """

    name = "mft"
    summary = "replace part of the reasoning in the input by noise, and still predict all of it"
    paper = (
        "Masked Thought: Simply Masking Partial Reasoning Steps Can Improve Mathematical Reasoning Learning of Language"
        " Models (ACL 2024)"
    )
    arxiv = "2403.02178"
    usage = "narrowgauge train --method mft:rate=0.2,steps=700"

    rate: float = 0.4
    steps: int = 0
    noise: str = "random"
    where: str = "answer"
    tokens: int = PAD
    mask_token: int = MASK
    fresh_mask: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate: expected a number in [0, 1], got {self.rate!r}")
        if self.steps < 0:
            raise ValueError(f"steps: expected the training's steps, or 0 for no ramp, got {self.steps}")
        if self.noise not in NOISES:
            raise ValueError(f"noise: expected one of {', '.join(NOISES)}, got {self.noise!r}")
        if self.where not in PLACES:
            raise ValueError(f"where: expected one of {', '.join(PLACES)}, got {self.where!r}")
        if self.tokens < 1:
            raise ValueError(f"tokens: expected at least 1, got {self.tokens}")
        if self.mask_token < 0:
            raise ValueError(f"mask_token: expected a token, got {self.mask_token}")

    @torch.no_grad()
    def surgery(self, model: nn.Module) -> tuple[nn.Module, None]:
        """The mask token's embedding becomes the mean of the other rows, in place."""
        table = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
        needed = self.mask_token if self.noise == "mask" else self.tokens - 1
        if table is None or needed >= table.num_embeddings:
            have = "no embedding" if table is None else f"{table.num_embeddings} tokens"
            raise ValueError(f"mft: noise={self.noise!r} needs a model with token {needed}; this one has {have}")
        if self.noise == "mask" and self.fresh_mask:
            others = torch.arange(table.num_embeddings, device=table.weight.device) != self.mask_token
            table.weight[self.mask_token] = table.weight[others].mean(0)
        return model, None

    def rate_at(self, step: int) -> float:
        """The share of tokens that optimizer step ``step`` damages."""
        return self.rate if not self.steps else min(self.rate, self.rate * step / (RAMP_SHARE * self.steps + 1))

    def transform(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        """Other ``input_ids`` [B, T]; each token of the answer (``where``) is replaced with probability ``rate_at``."""
        input_ids = batch["input_ids"]
        hit = torch.rand(input_ids.shape, generator=rng) < self.rate_at(step)
        if self.noise == "mask":
            noise = torch.full_like(input_ids, self.mask_token)
        else:
            noise = torch.randint(self.tokens, input_ids.shape, generator=rng)
        return batch | {"input_ids": torch.where(hit & self._places(batch), noise, input_ids)}

    def _places(self, batch: Batch) -> Tensor:
        input_ids, labels = batch["input_ids"], batch["labels"]
        # labels[t - 1] is the token at t where the loss asks for it: only such tokens are part of an answer.
        in_answer = torch.zeros_like(input_ids, dtype=torch.bool)
        in_answer[:, 1:] = input_ids[:, 1:] == labels[:, :-1]
        if self.where == "answer":
            return in_answer
        content = input_ids != PAD
        return content if self.where == "all" else content & ~in_answer

    @classmethod
    def experiment(cls) -> Experiment:
        """How far results follow a chain with wrong digits, with and without damage in training."""
        probe = "result digits right after a chain with 40 % wrong digits"
        return Experiment(
            setting="A Llama 64 wide with 2 layers, trained from scratch on 800 two-digit additions with a written-out"
            " chain, 700 steps of 32; p = 0.2, ramped over two thirds of the steps. Probe: held-out chains whose digits"
            " are wrong with a given probability are given, and the result's digits asked for. Controls: no damage; the"
            " same damage to the question; to everything. Accuracy is greedy and exact, on 200 held-out problems.",
            claims=(
                Claim(f"{probe}, random tokens", "random probe 0.4", "plain probe 0.4", better="higher", margin=0.03),
                Claim(f"{probe}, mask tokens", "mask probe 0.4", "plain probe 0.4", better="higher", margin=0.03),
                Claim(
                    f"{probe}, against damage to questions", "random probe 0.4", "question probe 0.4", better="higher"
                ),
                Claim("accuracy, random tokens", "random", "plain", better="higher", judged=False),
                Claim("accuracy, mask tokens", "mask", "plain", better="higher", judged=False),
                Claim("accuracy, damage to the question", "question", "plain", judged=False),
                Claim("accuracy, damage to everything", "all", "plain", judged=False),
            ),
            run=_compare,
            seeds=5,
        )


_ARMS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "random": {"noise": "random"},
    "mask": {"noise": "mask"},
    "question": {"where": "question"},
    "all": {"where": "all"},
}


def _compare(context: Context) -> dict[str, float]:
    train, held_out = addition(context.count(800, 32), context.count(200, 8), seed=context.seed)
    steps = context.steps(700)
    values = {}
    for arm, settings in _ARMS.items():
        context.begin(arm, 1 / len(_ARMS))
        model = context.prepare(tiny_llama(context.seed, vocab_size=VOCAB_SIZE, max_seq_len=32))
        data = TaskSource(train, held_out, batch_size=32, seq_len=SEQ_LEN, seed=context.seed)
        methods = [] if settings is None else [MaskedThought(rate=0.2, steps=steps, **settings)]
        model = context.fit(model, data, steps, methods=methods).model
        values[arm] = accuracy(model, held_out, max_new_tokens=SEQ_LEN - 6)
        for share in (0.0, 0.15, 0.4):
            wrong = [with_wrong_digits(example, share, context.seed) for example in held_out]
            values[f"{arm} probe {share:g}"] = result_accuracy(model, wrong)
    return values


@torch.no_grad()
def result_accuracy(model: nn.Module, examples: Sequence[Example]) -> float:
    """Share of the digits behind the ``#`` that the model predicts, given the question and the chain as it stands."""
    batch = batch_of(examples, SEQ_LEN)
    input_ids, labels = batch["input_ids"], batch["labels"]
    behind = (input_ids == RESULT[0]).cumsum(1).bool() & (labels != IGNORED_LABEL) & (labels != EOS)
    with eval_mode(model):
        predicted = model(input_ids.to(device_of(model))).argmax(-1).cpu()
    return (predicted == labels)[behind].double().mean().item()
