"""Rows of bytes as batches of the training loop: whole rows for language modelling, the label word alone for tuning.

The three kinds of training differ only in which tokens are learned; the rows of the second and the third are the same
to the byte:

    raw text            every byte of the text                   conventional continued pre-training
    filled template     every byte of text, template and word    prompt-based continued pre-training
    filled template     the bytes of the word                    prompt-based fine-tuning
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from narrowgauge.methods.pcp.template import Prompt, Text
from narrowgauge.train import Batch
from narrowgauge.train.tasks import ExampleStream, batch_of_tokens


@dataclass(frozen=True, slots=True)
class Row:
    """``data[start:end]`` is learned, the rest only read; the first byte cannot be learned."""

    data: bytes
    start: int
    end: int


def collate(rows: Sequence[Row], seq_len: int) -> Batch:
    """``input_ids`` and ``labels`` [B, seq_len] int64; ``ValueError`` for a row of more than ``seq_len + 1`` bytes."""
    targets = [[row.start <= i < row.end for i in range(len(row.data))] for row in rows]
    return batch_of_tokens([list(row.data) for row in rows], targets, seq_len)


def raw_corpus(texts: Sequence[Text], prompt: Prompt) -> list[Row]:
    """The texts without template, a pair joined by a blank, cut to the prompt's ``max_length``."""
    joined = (text.first + (b" " + text.second if text.second else b"") for text in texts)
    return [Row(data, 1, len(data)) for data in (whole[: prompt.max_length] for whole in joined)]


def build_corpus(texts: Sequence[Text], labels: Sequence[int], prompt: Prompt) -> list[Row]:
    """Each text in the template with its label's word, every byte learned but the first.

    Raises ``ValueError`` for another number of labels than of texts, and for a label without a word.
    """
    return [Row(data, 1, len(data)) for data in _filled(texts, labels, prompt)]


def tuning_rows(texts: Sequence[Text], labels: Sequence[int], prompt: Prompt) -> list[Row]:
    """The same rows, of which only the word is learned."""
    length = len(prompt.words[0])
    rows = zip(texts, _filled(texts, labels, prompt), strict=True)
    return [Row(data, prompt.slot(text), prompt.slot(text) + length) for text, data in rows]


def _filled(texts: Sequence[Text], labels: Sequence[int], prompt: Prompt) -> list[bytes]:
    if len(texts) != len(labels):
        raise ValueError(f"labels: expected {len(texts)}, one for each text, got {len(labels)}")
    return [prompt.fill(text, int(label)) for text, label in zip(texts, labels, strict=True)]


def row_stream(rows: Sequence[Row], prompt: Prompt, *, batch_size: int, seed: int) -> ExampleStream[Row]:
    """Batches of the rows, each row once an epoch; the first batch of them also serves as validation."""
    return ExampleStream(
        rows, rows[:batch_size], collate=collate, batch_size=batch_size, seq_len=prompt.max_length, seed=seed
    )
