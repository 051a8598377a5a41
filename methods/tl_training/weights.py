"""Weights of the loss, from classes of tokens.

For one reply with ``n_pre``, ``n_para``, ``n_other`` tokens of each class and the cap ``W``::

    w = min(n_other / n_pre, W)  where 0 < n_pre < n_other,  else 1
    L = (w · Σ_pre ce + Σ_para ce + Σ_other ce) / (w · n_pre + n_para + n_other)

A batch weighs its replies by their tokens, as the mean over tokens does: each weight is multiplied by the row's number
of tokens over the row's sum of weights, so that ``Σ weight · ce / tokens`` is ``L`` for one row, and the ordinary mean
where every weight is 1.
"""

import torch
from torch import Tensor

from narrowgauge.methods.tl_training.key_tokens import IGNORED, OTHER, PRE


def key_weight(num_pre: Tensor, num_other: Tensor, max_weight: float) -> Tensor:
    """``w`` [B] float32, of counts [B], in [1, ``max_weight``]."""
    ratio = num_other / num_pre.clamp(min=1)
    return torch.where(num_pre > 0, ratio, 1.0).clamp(1.0, max_weight)


def loss_weights(token_class: Tensor, max_weight: float) -> Tensor:
    """[B, T] float32 of ``token_class`` [B, T] int64: 0 where ignored; each row's sum is its number of other tokens."""
    learned = token_class != IGNORED
    is_pre = token_class == PRE
    num_other = (token_class == OTHER).sum(1)
    weights = torch.where(is_pre, key_weight(is_pre.sum(1), num_other, max_weight)[:, None], learned.float())
    num_learned = learned.sum(1, keepdim=True)
    return weights * num_learned / weights.sum(1, keepdim=True).clamp(min=1.0)
