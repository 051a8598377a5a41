"""Documents one after the other in full rows, each document once an epoch.

An epoch is all documents in an order drawn from (seed, epoch), each followed by ``EOS``, joined and cut into rows of
``T + 1`` tokens that overlap by one, so that every token but the very first is a label once. What is left at the end
(fewer than T tokens) is dropped; the next epoch's order decides what that is.

With ``boundaries`` a batch also has ``segments`` [B, T] int64: 0, 1, 2, … for the documents of a row. Attention
between documents is avoided by :func:`segment_mask`, which a model has to be given; the label of each ``EOS`` (the
first token of another document, which nothing in front tells) is then -100.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.train.corpus import Batch
from narrowgauge.train.documents import Document, split_documents
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.position import Positioned
from narrowgauge.train.ranks import rank_rows
from narrowgauge.train.tasks.source import permutation
from narrowgauge.train.tokens import EOS, encode


def segment_mask(segments: Tensor) -> Tensor:
    """Which positions each may look at: bool [B, 1, T, T], causal and within its own document.

    ``segments`` [B, T] as a packed batch has it; for ``scaled_dot_product_attention``.
    """
    same = segments[:, None, :, None] == segments[:, None, None, :]
    return same & torch.ones(same.shape[-2:], dtype=torch.bool, device=segments.device).tril()


class PackedStream(Positioned):
    """Packed documents as a :class:`~narrowgauge.train.data.BatchSource`, resumable to the same batch.

    ``tokenize`` makes tokens of a document's text (default: its bytes); ``separator`` follows each document. About a
    tenth of the documents (by bytes, by a hash of the names) is packed in the given order for validation, the last
    batch of which may be smaller. ``batch_size`` counts the rows over all ranks, see
    :class:`~narrowgauge.train.data.BatchStream`. Raises ``ValueError`` for documents that do not fill a row in
    either part.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        *,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        boundaries: bool = False,
        tokenize: Callable[[bytes], Sequence[int]] = encode,
        separator: int = EOS,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._rank_rows = rank_rows(batch_size, rank, world_size)
        if seq_len < 1:
            raise ValueError(f"seq_len: expected at least 1, got {seq_len}")
        self.batch_size, self.seq_len, self.seed = batch_size, seq_len, seed
        self.boundaries, self.separator = boundaries, separator
        self.position = 0
        parts = split_documents(documents)
        self._train, self._held_out = ([_tokens(d, tokenize, separator) for d in part] for part in parts)
        self._epoch: tuple[int, NDArray[np.int64]] | None = None
        total = sum(map(len, self._train))
        self.rows_per_epoch = (total - 1) // seq_len
        self._validation_rows = np.concatenate(self._held_out)
        for part, rows in (
            ("training", self.rows_per_epoch),
            ("validation", (self._validation_rows.size - 1) // seq_len),
        ):
            if rows < 1:
                raise ValueError(f"seq_len: {seq_len} is more than the {part} documents have tokens")

    def __iter__(self) -> "PackedStream":
        return self

    def _row(self, number: int) -> NDArray[np.int64]:
        """Row ``number`` of all epochs, ``seq_len + 1`` tokens."""
        epoch, place = divmod(number, self.rows_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            order = permutation(self.seed, epoch, len(self._train))
            self._epoch = (epoch, np.concatenate([self._train[index] for index in order]))
        return self._epoch[1][place * self.seq_len : (place + 1) * self.seq_len + 1]

    def __next__(self) -> Batch:
        first = self.position * self.batch_size
        rows = np.stack([self._row(number) for number in range(first, first + self.batch_size)])
        self.position += 1
        return self._batch(rows[self._rank_rows])

    def _batch(self, rows: NDArray[np.int64]) -> Batch:
        tokens = torch.from_numpy(rows)
        batch = {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
        if self.boundaries:
            is_end = batch["input_ids"] == self.separator
            batch["labels"] = batch["labels"].masked_fill(is_end, IGNORED_LABEL)
            batch["segments"] = is_end.cumsum(1) - is_end.long()  # an EOS still belongs to the document it ends
        return batch

    def validation(self) -> list[Batch]:
        """The held-out documents, packed in order."""
        count = (self._validation_rows.size - 1) // self.seq_len
        index = np.arange(count)[:, None] * self.seq_len + np.arange(self.seq_len + 1)
        rows = self._validation_rows[index]
        return [self._batch(rows[start : start + self.batch_size]) for start in range(0, count, self.batch_size)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all documents' tokens."""
        digest = hashlib.sha256(f"{len(self._train)}:".encode())
        for tokens in (*self._train, *self._held_out):
            digest.update(f"{tokens.size}:".encode() + tokens.tobytes())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """What the batches depend on besides the position."""
        return {
            "documents": self.fingerprint,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "seed": self.seed,
            "boundaries": self.boundaries,
        }


def _tokens(document: Document, tokenize: Callable[[bytes], Sequence[int]], separator: int) -> NDArray[np.int64]:
    return np.array([*tokenize(document.text), separator], dtype=np.int64)
