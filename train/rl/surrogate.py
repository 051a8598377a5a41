"""What GRPO and PPO share: the clipped surrogate, the estimator of the divergence, means over labelled tokens.

With ``ρ = π(y_t) / π_old(y_t)`` (PPO, arXiv:1707.06347, equation 7)::

    surrogate_t = min(ρ A, clip(ρ, 1 - clip, 1 + clip_high) A)

and, for samples from ``π`` (the "k3" estimator of ``KL(π ‖ π_ref)``: unbiased, and never below 0)::

    kl_t = π_ref / π - log(π_ref / π) - 1
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Aggregation = Literal["sequence", "token"]
"""``sequence``: the mean over each row's labelled tokens, then over rows; a row without labels counts as 0.
``token``: the mean over all labelled tokens, in which long completions weigh more."""


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip: float, clip_high: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Surrogate, ratio and whether the clipped branch was taken, each [B, T].

    ``logprobs`` and ``old_logprobs`` [B, T]; ``advantages`` [B] or [B, T]; ``clip_high=None`` means ``clip``.
    """
    if not 0 < clip < 1 or (clip_high is not None and not clip_high > 0):
        raise ValueError(f"clip, clip_high: expected 0 < clip < 1 and clip_high > 0 or None, got {clip}, {clip_high}")
    if advantages.ndim == 1:
        advantages = advantages.unsqueeze(1)
    ratio = (logprobs - old_logprobs).exp()
    plain = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high)) * advantages
    return torch.minimum(plain, clipped), ratio, clipped < plain


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The estimator of ``KL(π ‖ π_ref)`` for each token; gradient flows into ``logprobs``."""
    difference = ref_logprobs - logprobs
    return difference.expm1() - difference


def masked_mean(values: Tensor, mask: Tensor, aggregation: Aggregation = "token") -> Tensor:
    """Mean [] of ``values`` [B, T] over the labelled positions; 0 when there is none."""
    inside = values.where(mask, 0.0)
    if aggregation == "token":
        return inside.sum() / mask.sum().clamp(min=1)
    if aggregation == "sequence":
        return (inside.sum(1) / mask.sum(1).clamp(min=1)).mean()
    raise ValueError(f"aggregation: expected one of {', '.join(get_args(Aggregation))}, got {aggregation!r}")
