"""Diagonal Fisher information, and the penalty that it puts on moving weights (elastic weight consolidation).

With ``L(x, y) = Σ_t log p(y_t | x, y_<t)`` over the labelled tokens of a row::

    empirical:  F = mean over rows of (∂L(x, y) / ∂θ)²                       y from the data
    true:       F = mean over rows, and draws y_t ~ p(· | x_≤t), of the same  the labels' positions as in the data

The true one draws each label in the context of the data; labels of different positions are then uncorrelated
given the contexts, so that in expectation the squares of a row add up over its positions. Both square the gradient of
each row by itself: the square of a batch's mean gradient is something else, and much smaller.

EWC (arXiv:1612.00796, equation 3) keeps near to ``θ*`` what mattered there::

    penalty = strength / 2 · Σ_k F_k (θ_k - θ*_k)²
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch
from narrowgauge.train.decoding import eval_mode
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.rl.logprobs import label_mask, logits_logprobs

Kind = Literal["empirical", "true"]


def diagonal_fisher(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    kind: Kind = "empirical",
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """``F`` of each trainable parameter by name: float32, of its shape, on its device, never negative.

    The model computes in eval mode, its ``.grad`` stay as they are, rows without a label do not count. ``samples``:
    draws of the labels of each row; ``generator``: for them, a CPU generator; both for ``kind="true"`` alone.
    A parameter that a row does not use gets 0 from it. Raises ``ValueError`` for no labelled row, and for
    ``kind="true"`` without a generator.
    """
    if kind not in ("empirical", "true"):
        raise ValueError(f"kind: expected empirical or true, got {kind!r}")
    if kind == "true" and generator is None:
        raise ValueError("generator: kind='true' draws labels and needs a torch.Generator, got None")
    if samples < 1 or (kind == "empirical" and samples != 1):
        raise ValueError(f"samples: expected at least 1, and 1 for kind='empirical'; got {samples}")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    fisher = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named.items()}
    count = 0
    with eval_mode(model), torch.enable_grad():
        for input_ids, labels in _rows(batches, next(iter(named.values())).device):
            logits = model(input_ids)
            for draw in range(samples):
                chosen = labels if generator is None or kind == "empirical" else _drawn(logits, labels, generator)
                log_likelihood = logits_logprobs(logits, chosen).sum()
                gradients = torch.autograd.grad(
                    log_likelihood, list(named.values()), retain_graph=draw < samples - 1, allow_unused=True
                )
                for total, gradient in zip(fisher.values(), gradients, strict=True):
                    if gradient is not None:
                        total.add_(gradient.float().square())
                count += 1
    if not count:
        raise ValueError("batches: no row has a label")
    return {name: total / count for name, total in fisher.items()}


def _rows(batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Every labelled row by itself, [1, T]."""
    for batch in batches:
        for input_ids, labels in zip(batch["input_ids"].split(1), batch["labels"].split(1), strict=True):
            if bool(label_mask(labels).any()):
                yield input_ids.to(device), labels.to(device)


@torch.no_grad()
def _drawn(logits: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Labels drawn from the model where ``labels`` has any."""
    probabilities = logits.float().softmax(-1).flatten(0, 1).cpu()
    drawn = torch.multinomial(probabilities, 1, generator=generator).view(labels.shape).to(labels.device)
    return drawn.where(label_mask(labels), IGNORED_LABEL)


def decayed_sum(fisher: Mapping[str, Tensor], new: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """``decay · F + F_new``: one running Fisher for a row of tasks (online EWC, arXiv:1805.06370, section 4)."""
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: expected a number in [0, 1], got {decay}")
    if fisher.keys() != new.keys():
        raise ValueError("new: expected the Fisher information of the same parameters")
    return {name: decay * fisher[name] + new[name] for name in fisher}


def anchor_of(model: nn.Module) -> dict[str, Tensor]:
    """``θ*``: float32 copies of the trainable parameters by name."""
    return {name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}


def ewc_penalty(
    model: nn.Module, fisher: Mapping[str, Tensor], anchor: Mapping[str, Tensor], strength: float
) -> Tensor:
    """The penalty [] float32, to be added to a loss; with gradient into the model's parameters.

    Parameters that ``fisher`` does not name are free. Raises ``ValueError`` for a name that is not a parameter of
    the model, or not in ``anchor``, and for a negative ``strength``.
    """
    if strength < 0:
        raise ValueError(f"strength: expected 0 or more, got {strength}")
    named = dict(model.named_parameters())
    if unknown := sorted(name for name in fisher if name not in named or name not in anchor):
        raise ValueError(f"fisher: {unknown[0]!r} is not in the model and in anchor")
    if not fisher:
        raise ValueError("fisher: expected at least one parameter, got none")
    terms = [(fisher[name] * (named[name].float() - anchor[name]).square()).sum() for name in fisher]
    return strength / 2 * torch.stack(terms).sum()
