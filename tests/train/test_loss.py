import math

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import cross_entropy
from narrowgauge.train.loss import num_labelled


class Fixed(nn.Module):
    """Gives the same logits whatever it is asked."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.logits


def test_cross_entropy_is_the_mean_over_labelled_tokens() -> None:
    logits = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0], [5.0, -5.0]]])
    batch = {"input_ids": torch.zeros(1, 3, dtype=torch.int64), "labels": torch.tensor([[1, 0, -100]])}
    expected = (math.log(2.0) + math.log(4.0 / 3.0)) / 2
    assert cross_entropy(Fixed(logits), batch).item() == pytest.approx(expected, rel=1e-6)
    assert num_labelled(batch) == 2


def test_a_model_reads_the_tensors_that_it_names() -> None:
    class Two(Fixed):
        inputs = ("source_ids", "input_ids")

        def forward(self, source_ids: Tensor, input_ids: Tensor) -> Tensor:  # type: ignore[override]
            assert (source_ids.item(), input_ids.item()) == (7, 3)
            return self.logits

    batch = {"input_ids": torch.tensor([[3]]), "source_ids": torch.tensor([[7]]), "labels": torch.tensor([[0]])}
    assert cross_entropy(Two(torch.zeros(1, 1, 4)), batch).item() == pytest.approx(math.log(4.0))
