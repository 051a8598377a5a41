"""Log-probabilities of tokens and sequences under a model.

For logits ``z`` [B, T, V] and labels ``y`` [B, T] (``y[b, t]`` is the token after position ``t``)::

    log π(y_t | ...) = z[y_t] - logsumexp(z)                 at labelled positions, 0 where the label is -100
    log π(y | prefix) = Σ_t log π(y_t | ...)                 over the labelled positions of a row

Everything is float32, whatever the dtype of the logits. A prompt, padding, and what follows the end of a
completion carry the label -100, so that they enter no sum and get no gradient.
"""

import torch
from torch import Tensor, nn

from narrowgauge.train.loss import IGNORED_LABEL


def label_mask(labels: Tensor) -> Tensor:
    """[B, T] bool: where there is a label."""
    return labels != IGNORED_LABEL


def logits_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, T] float32: the log-probability of each label under ``logits`` [B, T, V]; 0 where the label is -100.

    Raises ``ValueError`` when the shapes do not belong together.
    """
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(
            f"labels: expected the [B, T] of logits [B, T, V], got {tuple(labels.shape)} for {tuple(logits.shape)}"
        )
    mask_BT = label_mask(labels)
    wide_BTV = logits.float()
    chosen_BT = wide_BTV.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (chosen_BT - wide_BTV.logsumexp(-1)).where(mask_BT, 0.0)


def token_logprobs(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """[B, T] float32: :func:`logits_logprobs` of ``model(input_ids)``."""
    return logits_logprobs(model(input_ids), labels)


def sequence_logprobs(model: nn.Module, input_ids: Tensor, labels: Tensor) -> Tensor:
    """[B] float32: the log-probability of each row's labelled tokens, given all that precedes them."""
    return token_logprobs(model, input_ids, labels).sum(-1)


def completion_batch(tokens: Tensor, prompt_lengths: Tensor, *, eos: int | None) -> dict[str, Tensor]:
    """``input_ids`` and ``labels`` [B, T-1] from whole rows ``tokens`` [B, T] int64 = prompt, completion, whatever.

    Labelled are the tokens from index ``prompt_lengths`` [B] (at least 1) to the first ``eos`` from there on,
    ``eos`` included, as the model has to learn to stop; to the end of the row without one, or with ``eos=None``.
    Raises ``ValueError`` for a prompt length outside 1 … T.
    """
    num_tokens = tokens.shape[1]
    if prompt_lengths.shape != tokens.shape[:1]:
        raise ValueError(f"prompt_lengths: expected shape [{tokens.shape[0]}], got {list(prompt_lengths.shape)}")
    if prompt_lengths.numel() and not 1 <= int(prompt_lengths.min()) <= int(prompt_lengths.max()) <= num_tokens:
        raise ValueError(f"prompt_lengths: expected 1 … {num_tokens}, got {prompt_lengths.tolist()}")
    is_completion = torch.arange(num_tokens, device=tokens.device) >= prompt_lengths.unsqueeze(1)
    if eos is not None:
        is_end = (tokens == eos) & is_completion
        is_completion &= is_end.cumsum(1) - is_end.long() == 0
    labels = tokens.where(is_completion, IGNORED_LABEL)
    return {"input_ids": tokens[:, :-1].contiguous(), "labels": labels[:, 1:].contiguous()}
