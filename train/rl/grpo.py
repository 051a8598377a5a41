"""Group relative policy optimization (DeepSeekMath, arXiv:2402.03300, equation 3).

G completions are drawn for each prompt; each token of a completion carries the completion's advantage within its
group (:func:`~narrowgauge.train.rl.advantages.group_advantages`), so that no value function is needed::

    loss = - mean_t surrogate_t + kl_coef · mean_t kl_t

with the clipped surrogate and the k3 estimator of :mod:`narrowgauge.train.rl.surrogate`. ``clip_high`` above
``clip`` is the "clip-higher" of DAPO (arXiv:2503.14476), whose mean is over tokens.
"""

from torch import Tensor

from narrowgauge.train.method import Metrics
from narrowgauge.train.rl.surrogate import Aggregation, clipped_surrogate, k3, masked_mean


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    ref_logprobs: Tensor | None = None,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    kl_coef: float = 0.0,
    aggregation: Aggregation = "sequence",
) -> tuple[Tensor, Metrics]:
    """The loss [] and ``ratio``, ``clip_fraction`` and, with a reference, ``kl``: means over labelled tokens.

    ``logprobs``, ``old_logprobs``, ``ref_logprobs`` [B, T] float32 (only the first has a gradient), ``advantages``
    [B] or [B, T], ``mask`` [B, T] bool: the completions. Raises ``ValueError`` for ``kl_coef`` without
    ``ref_logprobs``, and for settings outside their range.
    """
    if kl_coef < 0 or (kl_coef > 0 and ref_logprobs is None):
        raise ValueError(f"kl_coef: expected 0 or more, and ref_logprobs when it is above 0; got {kl_coef}")
    surrogate, ratio, clipped = clipped_surrogate(logprobs, old_logprobs, advantages, clip=clip, clip_high=clip_high)
    loss = -masked_mean(surrogate, mask, aggregation)
    metrics = {
        "ratio": masked_mean(ratio.detach(), mask).item(),
        "clip_fraction": masked_mean(clipped.float(), mask).item(),
    }
    if ref_logprobs is not None:
        divergence = k3(logprobs, ref_logprobs)
        metrics["kl"] = masked_mean(divergence.detach(), mask).item()
        if kl_coef:
            loss = loss + kl_coef * masked_mean(divergence, mask, aggregation)
    return loss, metrics
