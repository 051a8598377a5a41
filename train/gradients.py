"""From the micro-batches of a step to gradients that are finite and not too long."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch
from narrowgauge.train.loss import num_labelled
from narrowgauge.train.method import Metrics


def accumulate(
    loss_of: Callable[[Batch], tuple[Tensor, Metrics]], micro_batches: Sequence[Batch]
) -> tuple[Tensor, Metrics]:
    """Add the gradient of the mean over all labelled tokens; that mean [] on the device, and metrics.

    ``loss_of`` gives the mean over one micro-batch, which counts by its share of the labelled tokens: the
    gradient is that of one large batch. Raises ``ValueError`` when no token is labelled.
    """
    counts = [num_labelled(batch) for batch in micro_batches]
    if not any(counts):
        raise ValueError("data: no token of the step has a label")
    losses: list[Tensor] = []
    metrics: Metrics = {}
    for batch, count in zip(micro_batches, counts, strict=True):
        if count:  # the mean over no token is 0/0
            share = count / sum(counts)
            loss, extra = loss_of(batch)
            weighted = loss * share
            weighted.backward()
            losses.append(weighted.detach())
            for name, value in extra.items():
                metrics[name] = metrics.get(name, 0.0) + value * share
    return torch.stack(losses).sum(), metrics


def finite_loss_and_norm(
    parameters: Sequence[Tensor], loss: Tensor, clip_norm: float | None, step: int
) -> tuple[float, float]:
    """Clip the gradients to the global 2-norm ``clip_norm`` (``None``: not); the loss, and the former norm.

    Raises ``FloatingPointError`` that names ``step`` when one of the two is not finite.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    # One wait for the device serves both numbers.
    loss_value, norm_value = torch.stack([loss.double(), norm.double()]).tolist()
    for name, value in (("loss", loss_value), ("gradient norm", norm_value)):
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value} at step {step}; the weights are those before this step")
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return loss_value, norm_value
