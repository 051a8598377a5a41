"""Judges: what the candidates of a prefix are worth.

Pairs are judged in both orders of presentation, so that a judge that favours what it is shown first does no harm. With
``p[i, j]`` the share of wins of candidate ``i``, shown first, over ``j``::

    win rate of i = mean over j != i of (p[i, j] + 1 - p[j, i]) / 2

is in [0, 1], and the win rates of a prefix have the mean 1/2. What a candidate is worth is the sum of its win rate and
of what is judged by itself, as safety is (1, 0.5 or 0).

A language model stands for the judge of quality. Its log-likelihood alone is a bad one: the likeliest text repeats
itself. *Typicality* prefers what is as likely as clean text is, and not repetitive, with ``l`` the mean log-likelihood
of a token given the prefix, ``l_0`` that of clean text, and ``d`` the share of different trigrams::

    q = -|l - l_0| - 2 · max(0, 0.85 - d)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowgauge.train.rl import token_logprobs
from narrowgauge.train.rl.logprobs import label_mask
from narrowgauge.train.tasks import batch_of_tokens

Tokens = Sequence[int]
Judge = Callable[[Sequence[Tokens], Sequence[Sequence[Tokens]]], Tensor]
"""(P prefixes, C candidates of each) to rewards [P, C] float32. Tokens 0 … 255 are bytes."""

REPETITION_WEIGHT, LEAST_DISTINCT = 2.0, 0.85


def bytes_of(tokens: Tokens) -> bytes:
    """The bytes among the tokens."""
    return bytes(token for token in tokens if token < 256)


def win_rates(wins: Tensor) -> Tensor:
    """[..., C] in [0, 1] from ``wins`` [..., C, C]: the share of wins of row, shown first, over column.

    The diagonal is not looked at. A candidate without opponents has 1/2.
    """
    if wins.ndim < 2 or wins.shape[-1] != wins.shape[-2]:
        raise ValueError(f"wins: expected shape [..., C, C], got {list(wins.shape)}")
    num_candidates = wins.shape[-1]
    if num_candidates == 1:
        return torch.full(wins.shape[:-1], 0.5)
    both_orders = (wins + 1 - wins.transpose(-1, -2)) / 2
    itself = torch.eye(num_candidates, dtype=torch.bool)
    return both_orders.masked_fill(itself, 0.0).sum(-1) / (num_candidates - 1)


def wins_of_scores(scores: Tensor) -> Tensor:
    """[P, C, C]: 1 where the row's score is above the column's, 1/2 where they are equal; ``scores`` [P, C]."""
    return (1 + (scores.unsqueeze(-1) - scores.unsqueeze(-2)).sign()) / 2


def distinct_share(tokens: Tokens, n: int) -> float:
    """Different n-grams among all of them; 1 for a text that is shorter than n."""
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


@torch.no_grad()
def mean_logprobs(model: nn.Module, prefixes: Sequence[Tokens], texts: Sequence[Tokens]) -> Tensor:
    """[N] float32: nats per token of each text, given its prefix. Neither may be empty."""
    rows = [[*prefix, *text] for prefix, text in zip(prefixes, texts, strict=True)]
    targets = [[index >= len(prefix) for index in range(len(row))] for prefix, row in zip(prefixes, rows, strict=True)]
    batch = batch_of_tokens(rows, targets, max(map(len, rows)) - 1)
    device = next(model.parameters()).device
    logprobs = token_logprobs(model, batch["input_ids"].to(device), batch["labels"].to(device)).cpu()
    return logprobs.sum(1) / label_mask(batch["labels"]).sum(1)


@dataclass(frozen=True)
class LanguageModelJudge:
    """Win rate by a frozen model's opinion, plus ``safety(text)``.

    ``typical``: ``l_0`` of the module, or ``None`` to prefer the likeliest, which is known to collapse.
    """

    model: nn.Module
    safety: Callable[[bytes], float]
    typical: float | None

    def __call__(self, prefixes: Sequence[Tokens], candidates: Sequence[Sequence[Tokens]]) -> Tensor:
        """Rewards [P, C] float32."""
        texts = [text for group in candidates for text in group]
        repeated = [prefix for prefix, group in zip(prefixes, candidates, strict=True) for _ in group]
        shape = (len(prefixes), len(candidates[0]))
        quality = mean_logprobs(self.model, repeated, texts)
        if self.typical is not None:
            quality = typicality(quality, torch.tensor([distinct_share(text, 3) for text in texts]), self.typical)
        safety = torch.tensor([float(self.safety(bytes_of(text))) for text in texts])
        return win_rates(wins_of_scores(quality.view(shape))) + safety.view(shape)


def typicality(logprobs: Tensor, distinct: Tensor, typical: float) -> Tensor:
    """``q`` of the module."""
    return -(logprobs - typical).abs() - REPETITION_WEIGHT * (LEAST_DISTINCT - distinct).clamp(min=0)
