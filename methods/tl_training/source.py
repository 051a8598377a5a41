"""Conversations with tools as the batches that the method reads."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch

from narrowgauge.methods.tl_training.key_tokens import IGNORED, classes
from narrowgauge.methods.tl_training.samples import Sample, looks_like_error, samples
from narrowgauge.train import Batch
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.tasks import ExampleStream, Turn, batch_of_tokens
from narrowgauge.train.tokens import encode


def batch_of_samples(
    chosen: Sequence[Sample], seq_len: int, *, tools: Collection[str], max_pre: int | None = None
) -> Batch:
    """``input_ids``, ``labels`` and ``token_class`` [B, T] int64, T ≤ ``seq_len`` the longest sample's.

    Labels are on the replies alone; ``token_class`` is that of the label, ``IGNORED`` where there is none. Raises
    ``ValueError`` for a sample of more than ``seq_len + 1`` bytes.
    """
    rows = [encode(sample.prompt + sample.reply) for sample in chosen]
    targets = [[False] * len(sample.prompt) + [True] * len(sample.reply) for sample in chosen]
    length = min(seq_len, max(map(len, rows), default=2) - 1)
    batch = batch_of_tokens(rows, targets, length)
    token_class = torch.full_like(batch["labels"], IGNORED)
    for index, sample in enumerate(chosen):
        token_class[index, batch["labels"][index] != IGNORED_LABEL] = torch.tensor(
            classes(sample.reply, tools, max_pre)
        )
    return batch | {"token_class": token_class}


def tool_source(
    train: Sequence[Sequence[Turn]],
    validation: Sequence[Sequence[Turn]],
    *,
    tools: Collection[str],
    batch_size: int,
    seq_len: int,
    seed: int,
    mask_errors: bool = True,
    is_error: Callable[[str], bool] = looks_like_error,
    max_pre: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> ExampleStream[Sample]:
    """A source of samples (:func:`samples`) of conversations; ``tools`` are the names that a call may have.

    ``max_pre``: at most so many key positions in a name. Failed calls are never validated on. Other arguments and
    errors are those of :class:`~narrowgauge.train.tasks.ExampleStream`.
    """
    return ExampleStream(
        [sample for turns in train for sample in samples(turns, is_error=is_error, mask_errors=mask_errors)],
        [sample for turns in validation for sample in samples(turns, is_error=is_error)],
        collate=partial(batch_of_samples, tools=tuple(tools), max_pre=max_pre),
        batch_size=batch_size,
        seq_len=seq_len,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
