"""Attention over a part of the keys, its gradients, and how parts make a whole.

With ``S = q kᵀ / √D`` where it is read and -inf elsewhere, a part gives its own softmax's output and the logarithm of
its denominator; two parts merge by how much of the denominator each holds::

    out = softmax(S) v,    lse = log Σ exp(S)
    out ← out - σ(lse_b - lse) (out - out_b),    lse ← log(exp(lse) + exp(lse_b))

A row that reads nothing has ``out = 0`` and ``lse = -inf``, and merging it changes nothing. Backward needs only the
whole's ``out`` and ``lse``, for each part::

    P = exp(S - lse),   δ = Σ_D dout · out,   dS = P (dout vᵀ - δ)
    dq = dS k / √D,     dk = dSᵀ q / √D,      dv = Pᵀ dout

(FlashAttention, arXiv:2205.14135; ring attention, arXiv:2310.01889.) All is float32. With fewer key heads than query
heads, query head h reads key head h · K // H, and the gradients of its readers are added.
"""

import torch
from torch import Tensor


def partial_attention(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_BHTS: Tensor) -> tuple[Tensor, Tensor]:
    """``out`` float32 [B, H, T, D] and ``lse`` float32 [B, H, T] over these keys."""
    logits = _logits(q_BHTD, k_BKSD, mask_BHTS)
    lse = logits.logsumexp(dim=-1)
    return _weights(logits, lse) @ _heads(v_BKSD, q_BHTD), lse


def partial_gradients(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    mask_BHTS: Tensor,
    out_BHTD: Tensor,
    lse_BHT: Tensor,
    grad_BHTD: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """What these keys add to the gradient of q, and the gradients of k and v; ``out`` and ``lse`` are the whole's."""
    scale = q_BHTD.shape[-1] ** -0.5
    k_BHSD, v_BHSD, grad_BHTD = _heads(k_BKSD, q_BHTD), _heads(v_BKSD, q_BHTD), grad_BHTD.float()
    weights = _weights(_logits(q_BHTD, k_BKSD, mask_BHTS), lse_BHT)
    inner = (grad_BHTD * out_BHTD).sum(dim=-1, keepdim=True)
    grad_logits = weights * (grad_BHTD @ v_BHSD.transpose(-2, -1) - inner) * scale
    dq_BHTD = grad_logits @ k_BHSD
    dk_BHSD = grad_logits.transpose(-2, -1) @ q_BHTD.float()
    dv_BHSD = weights.transpose(-2, -1) @ grad_BHTD
    groups = (k_BKSD.shape[1], -1)
    return dq_BHTD, dk_BHSD.unflatten(1, groups).sum(dim=2), dv_BHSD.unflatten(1, groups).sum(dim=2)


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """The attention over the keys of both parts; ``out`` [..., T, D], ``lse`` [..., T]."""
    # -inf minus -inf is no number: a part that reads nothing has no share.
    share = torch.where(other_lse == float("-inf"), 0.0, torch.sigmoid(other_lse - lse))[..., None]
    return out - share * (out - other), torch.logaddexp(lse, other_lse)


def _heads(x_BKSD: Tensor, q_BHTD: Tensor) -> Tensor:
    return x_BKSD.float().repeat_interleave(q_BHTD.shape[1] // x_BKSD.shape[1], dim=1)


def _logits(q_BHTD: Tensor, k_BKSD: Tensor, mask_BHTS: Tensor) -> Tensor:
    logits = q_BHTD.float() @ _heads(k_BKSD, q_BHTD).transpose(-2, -1) * q_BHTD.shape[-1] ** -0.5
    return logits.masked_fill(~mask_BHTS, float("-inf"))


def _weights(logits_BHTS: Tensor, lse_BHT: Tensor) -> Tensor:
    """``exp(S - lse)``, and 0 in rows that read nothing."""
    finite = torch.where(lse_BHT == float("-inf"), 0.0, lse_BHT)[..., None]
    return (logits_BHTS - finite).exp()
