"""From rewards to advantages: how much better a completion, or a token, did than expected.

**Groups** (GRPO, DeepSeekMath, arXiv:2402.03300, section 4.1). G completions of one prompt have the rewards
``r_1 … r_G``; with the group's mean and population standard deviation::

    A_i = (r_i - mean) / (std + eps)          scale_by_std=False:  A_i = r_i - mean   (Dr. GRPO, arXiv:2503.20783)

``Σ_i A_i = 0``; with ``eps = 0`` the advantages do not change when the rewards become ``a · r + b``, ``a > 0``.
Equal rewards say nothing, and give exactly 0.

**Steps** (generalized advantage estimation, arXiv:1506.02438)::

    δ_t = r_t + γ V_{t+1} - V_t,    A_t = δ_t + γ λ A_{t+1},    R_t = A_t + V_t

where ``V`` and ``A`` are 0 beyond the last labelled token of a row.
"""

import torch
from torch import Tensor

EPS = 1e-4


def group_advantages(rewards: Tensor, *, eps: float = EPS, scale_by_std: bool = True) -> Tensor:
    """[P, G] float32 from ``rewards`` [P, G]: G completions of each of P prompts.

    Raises ``ValueError`` for another rank, a reward that is not finite, or a negative ``eps``.
    """
    if rewards.ndim != 2 or not bool(torch.isfinite(rewards).all()):
        raise ValueError(f"rewards: expected finite numbers of shape [prompts, completions], got {rewards}")
    if eps < 0:
        raise ValueError(f"eps: expected 0 or more, got {eps}")
    wide = rewards.double()
    centred = wide - wide.mean(1, keepdim=True)
    if scale_by_std:
        centred = centred / (wide.std(1, correction=0, keepdim=True) + eps)
    # The mean of equal numbers may be off by a rounding, which a small deviation would blow up.
    is_equal = wide.amax(1, keepdim=True) == wide.amin(1, keepdim=True)
    return centred.masked_fill(is_equal, 0.0).float()


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Advantages and returns [B, T] float32, 0 outside ``mask``.

    ``rewards`` [B, T]: what the token chosen at each position brought; ``values`` [B, T]: what was expected
    before it was chosen; ``mask`` [B, T] bool: one unbroken run of labelled positions a row.
    """
    if not rewards.shape == values.shape == mask.shape:
        raise ValueError(
            "rewards, values, mask: expected one shape [B, T],"
            f" got {tuple(rewards.shape)}, {tuple(values.shape)}, {tuple(mask.shape)}"
        )
    advantages = torch.zeros_like(rewards, dtype=torch.float32)
    following = advantage = torch.zeros_like(advantages[:, 0])
    for t in reversed(range(rewards.shape[1])):
        inside = mask[:, t]
        delta = rewards[:, t].float() + gamma * following - values[:, t].float()
        advantage = (delta + gamma * lam * advantage).where(inside, 0.0)
        following = values[:, t].float().where(inside, 0.0)
        advantages[:, t] = advantage
    return advantages, (advantages + values.float()).where(mask, 0.0)


def whiten(advantages: Tensor, mask: Tensor, *, eps: float = 1e-8) -> Tensor:
    """``(A - mean) / (std + eps)`` over the labelled positions of the whole batch, 0 elsewhere."""
    chosen = advantages[mask]
    if not chosen.numel():
        return torch.zeros_like(advantages)
    return ((advantages - chosen.mean()) / (chosen.std(correction=0) + eps)).where(mask, 0.0)
