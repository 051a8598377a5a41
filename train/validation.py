"""The trainer's own evaluation: mean cross-entropy over the validation batches."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from narrowgauge.train.data import Batch
from narrowgauge.train.distributed import Processes
from narrowgauge.train.loss import num_labelled
from narrowgauge.train.method import Metrics


def validation_loss(
    loss_of: Callable[[nn.Module, Batch], Tensor], model: nn.Module, batches: Sequence[Batch], processes: Processes
) -> Metrics:
    """``val_loss`` in nats per labelled token, over the rows of all processes. ``ValueError`` if none has a label."""
    total, count = 0.0, 0.0
    for batch in map(processes.rows, batches):
        tokens = num_labelled(batch)
        loss = loss_of(model, batch).item()  # a process without rows runs it too: others gather weights with it
        if tokens:
            total += loss * tokens
            count += tokens
    total, count = processes.total([total, count])
    if not count:
        raise ValueError("data: no token of the validation batches has a label")
    return {"val_loss": total / count}
