"""From the micro-batches of a step to gradients that are finite and not too long."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch
from narrowgauge.train.distributed import Processes
from narrowgauge.train.loss import num_labelled
from narrowgauge.train.method import Metrics
from narrowgauge.train.replicas import total_norm


def accumulate(
    loss_of: Callable[[Batch], tuple[Tensor, Metrics]],
    micro_batches: Sequence[Batch],
    processes: Processes | None = None,
) -> tuple[Tensor, Metrics]:
    """Add the gradient of the mean over all labelled tokens; that mean [] on the device, and metrics.

    ``loss_of`` gives the mean over one micro-batch, which counts by its share of the labelled tokens: the
    gradient is that of one large batch. ``processes``: each takes its rows of every micro-batch, shares are of
    the tokens of all, and mean and metrics are those of all. Raises ``ValueError`` when no token is labelled.
    """
    processes = processes or Processes()
    parts = [processes.rows(batch) for batch in micro_batches]
    counts = [num_labelled(batch) for batch in parts]
    total = processes.num_labelled(sum(counts), micro_batches)
    if not total:
        raise ValueError("data: no token of the step has a label")
    losses: list[Tensor] = []
    metrics: Metrics = {}
    for index, (batch, count) in enumerate(zip(parts, counts, strict=True)):
        if not count and processes.world == 1:
            continue  # the mean over no token is 0/0
        share = count / total
        with processes.sync(last=index == len(parts) - 1):
            loss, extra = loss_of(batch if count else _labelled(batch))
            weighted = loss * (share * processes.world)
            weighted.backward()
        losses.append(weighted.detach())
        for name, value in extra.items():
            metrics[name] = metrics.get(name, 0.0) + (value * share if count else 0.0)
    return _over_all(torch.stack(losses).sum(), metrics, processes)


def _labelled(batch: Batch) -> Batch:
    """Labels of a part that has none and counts for nothing: other processes wait for its gradients, which are 0."""
    return {**batch, "labels": torch.zeros_like(batch["labels"])}


def _over_all(loss: Tensor, metrics: Metrics, processes: Processes) -> tuple[Tensor, Metrics]:
    if processes.world == 1:
        return loss, metrics
    mean, *values = processes.total([loss.item() / processes.world, *(metrics[name] for name in sorted(metrics))])
    return loss.new_tensor(mean), dict(zip(sorted(metrics), values, strict=True))


def finite_loss_and_norm(
    parameters: Sequence[Tensor], loss: Tensor, clip_norm: float | None, step: int
) -> tuple[float, float]:
    """Clip the gradients to the global 2-norm ``clip_norm`` (``None``: not); the loss, and the former norm.

    The norm is over all shards of gradients that are cut over processes. Raises ``FloatingPointError`` that
    names ``step`` when one of the two is not finite.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    # One wait for the device serves both numbers.
    loss_value, norm_value = torch.stack([loss.double(), total_norm(norm).double()]).tolist()
    for name, value in (("loss", loss_value), ("gradient norm", norm_value)):
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value} at step {step}; the weights are those before this step")
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return loss_value, norm_value
