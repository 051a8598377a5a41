from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train.data import Batch
from narrowgauge.train.distributed import Processes
from narrowgauge.train.validation import validation_loss


def batch(*labels: int) -> Batch:
    return {"labels": torch.tensor([labels])}


def mean_label(model: nn.Module, batch: Batch) -> Tensor:
    return batch["labels"][batch["labels"] != -100].double().mean()


def test_every_labelled_token_counts_once() -> None:
    batches = [batch(1, 2, 3), batch(10, -100, -100), batch(-100, -100, -100)]
    assert validation_loss(mean_label, nn.Identity(), batches, Processes()) == {"val_loss": 4.0}


@pytest.mark.parametrize("batches", [[], [batch(-100)]])
def test_batches_without_labels_are_refused(batches: list[Batch]) -> None:
    loss: Callable[[nn.Module, Batch], Tensor] = mean_label
    with pytest.raises(ValueError, match="data: no token of the validation batches has a label"):
        validation_loss(loss, nn.Identity(), batches, Processes())
