"""Proximal policy optimization in its plain form (arXiv:1707.06347; on language models arXiv:2203.02155).

Each token is an action. The penalty for leaving the reference is part of the reward of each token, and the
completion's own reward arrives with its last token::

    r_t = - kl_coef · (log π(y_t) - log ref(y_t)) + [t is the last token] · reward

Advantages and returns follow from the values (:func:`~narrowgauge.train.rl.advantages.generalized_advantages`), and ::

    policy loss = - mean_t min(ρ A, clip(ρ, 1 - clip, 1 + clip) A)
    value loss  = mean_t ½ max((V - R)², (V_old + clamp(V - V_old, ± value_clip) - R)²)
    loss        = policy loss + value_coef · value loss
"""

import torch
from torch import Tensor, nn

from narrowgauge.train.method import Metrics
from narrowgauge.train.rl.surrogate import clipped_surrogate, masked_mean

VALUE_HEAD = "value_head"


class ValueHead(nn.Module):
    """Hidden states [B, T, C] to values [B, T] float32; zero at first, so that it expects nothing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor) -> Tensor:
        """``w · h + b`` at each position."""
        return hidden.float() @ self.weight.float() + self.bias.float()


def add_value_head(model: nn.Module) -> nn.Module:
    """Give a Llama a ``value_head``, in place; its other parameters and what it returns stay as they are.

    Raises ``ValueError`` for a model that has one, ``TypeError`` for one without the final norm ``model.norm``.
    """
    if not isinstance(getattr(model, "norm", None), nn.RMSNorm):
        raise TypeError(f"model: expected a Llama, whose final norm is model.norm; got {type(model).__name__}")
    if hasattr(model, VALUE_HEAD):
        raise ValueError("model: it has a value_head already")
    gain = model.get_submodule("norm").get_parameter("weight")
    model.add_module(VALUE_HEAD, ValueHead(gain.numel()).to(gain.device))
    return model


def logits_and_values(model: nn.Module, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] and values [B, T] of one forward pass; the values see the output of ``model.norm``.

    ``values[b, t]`` is what the model expects before the token after position ``t`` is chosen.
    """
    head = model.get_submodule(VALUE_HEAD)
    seen: list[Tensor] = []
    handle = model.get_submodule("norm").register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        logits = model(input_ids)
    finally:
        handle.remove()
    return logits, head(seen[-1])


def token_rewards(
    rewards: Tensor, mask: Tensor, logprobs: Tensor, ref_logprobs: Tensor | None = None, *, kl_coef: float = 0.0
) -> Tensor:
    """[B, T] float32: ``r_t`` of the module's first formula, 0 outside ``mask``.

    ``rewards`` [B] of whole completions; a row without labelled tokens has nothing to be rewarded for.
    ``logprobs`` and ``ref_logprobs`` [B, T] are those of the time of sampling. Raises ``ValueError`` for a
    ``kl_coef`` without ``ref_logprobs``.
    """
    if kl_coef < 0 or (kl_coef > 0 and ref_logprobs is None):
        raise ValueError(f"kl_coef: expected 0 or more, and ref_logprobs when it is above 0; got {kl_coef}")
    penalty = torch.zeros_like(logprobs) if ref_logprobs is None else -kl_coef * (logprobs - ref_logprobs)
    is_last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return penalty.where(mask, 0.0) + rewards.float().unsqueeze(1).where(is_last, 0.0)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, value_clip: float) -> Tensor:
    """The value loss []: the larger of the clipped and the plain squared error, halved; all [B, T]."""
    if not value_clip > 0:
        raise ValueError(f"value_clip: expected a number above 0, got {value_clip}")
    clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
    return 0.5 * masked_mean(torch.maximum((values - returns).square(), (clipped - returns).square()), mask)


def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    values: Tensor,
    old_values: Tensor,
    advantages: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip: float = 0.2,
    value_clip: float = 0.2,
    value_coef: float = 0.5,
) -> tuple[Tensor, Metrics]:
    """The loss [] and ``policy_loss``, ``value_loss``, ``ratio``, ``clip_fraction``: means over labelled tokens.

    All tensors are [B, T], ``mask`` bool, the others float32; only ``logprobs`` and ``values`` have a gradient.
    Raises ``ValueError`` for settings outside their range.
    """
    surrogate, ratio, clipped = clipped_surrogate(logprobs, old_logprobs, advantages, clip=clip)
    policy = -masked_mean(surrogate, mask)
    value = value_loss(values, old_values, returns, mask, value_clip=value_clip)
    metrics = {
        "policy_loss": policy.item(),
        "value_loss": value.item(),
        "ratio": masked_mean(ratio.detach(), mask).item(),
        "clip_fraction": masked_mean(clipped.float(), mask).item(),
    }
    return policy + value_coef * value, metrics
