"""The language model's own loss."""

import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.train.data import Batch

IGNORED_LABEL = -100


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean over the labelled tokens of ``-log softmax(logits)[label]`` in nats; labels of -100 do not count.

    ``logits`` [B, T, V] = ``model(batch["input_ids"])``, ``labels`` [B, T]. A model that reads more than ``input_ids``
    names the tensors of the batch in its ``inputs``.
    """
    logits_BTV = model(*(batch[name] for name in getattr(model, "inputs", ("input_ids",))))
    return F.cross_entropy(logits_BTV.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED_LABEL)


def num_labelled(batch: Batch) -> int:
    """How many tokens of the batch have a label."""
    return int((batch["labels"] != IGNORED_LABEL).sum())
