"""Direct preference optimization, and likelihood of the best candidate.

**DPO** (arXiv:2305.18290, equation 7). For a chosen and a rejected completion of one prompt::

    margin = [log π(chosen) - log ref(chosen)] - [log π(rejected) - log ref(rejected)]
    loss = mean over pairs of  -log sigmoid(beta · margin)  +  nll_coef · (-log π(chosen) / length(chosen))

It is log 2 where policy and reference agree. DPO lowers both likelihoods when that widens the margin; the
second term (arXiv:2404.19733, equation 1) holds the chosen one up, and ``chosen_logprob`` shows it.

**Reward-filtered NLL** (Self-Improving Pretraining, arXiv:2601.21343). Of a prompt's candidates with rewards
``r``, the best is a training target::

    loss = mean over prompts of  -log π(c*) / length(c*),      c* = argmax r  (the first of equals)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from narrowgauge.train.method import Metrics


def preference_pairs(rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices [P] of the best and the worst of ``rewards`` [P, C], and [P] bool whether they differ.

    Of equals the first is taken. Where all rewards are equal there is no preference, and the item is to be left out.
    """
    if rewards.ndim != 2 or not rewards.shape[1]:
        raise ValueError(f"rewards: expected shape [prompts, candidates], got {list(rewards.shape)}")
    return rewards.argmax(1), rewards.argmin(1), rewards.amax(1) > rewards.amin(1)


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    valid: Tensor | None = None,
    nll_coef: float = 0.0,
    chosen_lengths: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The loss [] and ``margin``, ``preference_accuracy``, ``chosen_logprob``, ``rejected_logprob``: means over pairs.

    The four: [P] float32 log-probabilities of sequences (the first two have a gradient). ``valid`` [P] bool:
    pairs that count (``None``: all); without one the loss is 0. ``chosen_lengths`` [P]: tokens of the chosen
    completions, needed with ``nll_coef``. Raises ``ValueError`` for settings outside their range.
    """
    if not beta > 0 or nll_coef < 0:
        raise ValueError(f"beta, nll_coef: expected above 0, and 0 or more; got {beta}, {nll_coef}")
    if nll_coef and chosen_lengths is None:
        raise ValueError("chosen_lengths: expected the token counts [P], as nll_coef is above 0; got None")
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    losses = -F.logsigmoid(beta * margin)
    if nll_coef and chosen_lengths is not None:
        losses = losses - nll_coef * chosen / chosen_lengths.clamp(min=1)
    counted = torch.ones_like(margin, dtype=torch.bool) if valid is None else valid
    shown = {
        "margin": margin,
        "preference_accuracy": (margin > 0).float(),
        "chosen_logprob": chosen,
        "rejected_logprob": rejected,
    }
    return _mean(losses, counted), {name: _mean(value.detach(), counted).item() for name, value in shown.items()}


def reward_filtered_nll(logprobs: Tensor, lengths: Tensor, rewards: Tensor) -> tuple[Tensor, Metrics]:
    """The loss [] in nats per token of the best candidates, and their mean ``best_reward``.

    ``logprobs`` [P, C] of whole completions, ``lengths`` [P, C] their tokens, ``rewards`` [P, C].
    """
    best = preference_pairs(rewards)[0].unsqueeze(1)
    nll = -(logprobs.gather(1, best) / lengths.gather(1, best).clamp(min=1)).mean()
    return nll, {"best_reward": rewards.gather(1, best).float().mean().item()}


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return values.where(counted, 0.0).sum() / counted.sum().clamp(min=1)
