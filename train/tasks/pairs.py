"""Examples as batches of an encoder-decoder: the prompt is its source, the answer its target."""

from collections.abc import Sequence

from narrowgauge.train.data import Batch
from narrowgauge.train.seq2seq import teacher_forcing
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tokens import encode


def batch_of_pairs(examples: Sequence[Example], seq_len: int) -> Batch:
    """``source_ids`` [B, S], ``input_ids`` and ``labels`` [B, T], int64, of the function ``teacher_forcing``.

    The ``collate`` of an :class:`~narrowgauge.train.tasks.ExampleStream`; S and T are the longest of the batch. Raises
    ``ValueError`` for an empty prompt, one of more than ``seq_len`` bytes, or an answer of ``seq_len`` bytes or more.
    """
    for example in examples:
        if max(len(example.prompt), len(example.answer) + 1) > seq_len:
            raise ValueError(f"seq_len: {seq_len} is not enough for {example!r}")
    return teacher_forcing([encode(e.prompt) for e in examples], [encode(e.answer) for e in examples])
