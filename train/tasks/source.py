"""Examples with a question and an answer as batches: every example exactly once an epoch, resumable anywhere.

Batches are a pure function of (examples, seed, position), so a position is all there is to save. A stream of
permutations, one an epoch, is cut into batches; where the number of examples is no multiple of the batch size,
a batch holds the end of one epoch and the beginning of the next, and still no example is left out.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from narrowgauge.train.data import Batch
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.position import Positioned
from narrowgauge.train.ranks import rank_rows
from narrowgauge.train.tokens import EOS, PAD, encode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Example:
    """What the model is given and what it has to write, in bytes; ``prompt`` is not empty."""

    prompt: bytes
    answer: bytes


def batch_of_tokens(rows: Sequence[Sequence[int]], targets: Sequence[Sequence[bool]], seq_len: int) -> Batch:
    """Rows of tokens as a batch; ``targets[b][i]`` tells whether token ``i`` of row ``b`` has to be learned.

    ``input_ids`` [B, seq_len] int64 is the row without its last token, filled up with ``PAD``; ``labels``
    [B, seq_len] int64 the token that follows where it is a target, else -100. A row has 2 … ``seq_len + 1``
    tokens; its first one cannot be a target, as nothing stands in front of it. Raises ``ValueError`` otherwise.
    """
    input_ids, labels = [], []
    for index, (row, is_target) in enumerate(zip(rows, targets, strict=True)):
        if not 2 <= len(row) <= seq_len + 1:
            raise ValueError(f"seq_len: {seq_len} takes rows of 2 … {seq_len + 1} tokens, row {index} has {len(row)}")
        if len(is_target) != len(row) or is_target[0]:
            raise ValueError(f"targets: expected one for each token of row {index}, not the first; got {is_target!r}")
        missing = seq_len + 1 - len(row)
        learned = [token if wanted else IGNORED_LABEL for token, wanted in zip(row, is_target, strict=True)]
        input_ids.append([*row[:-1], *[PAD] * missing])
        labels.append([*learned[1:], *[IGNORED_LABEL] * missing])
    shape = (len(rows), seq_len)
    return {
        "input_ids": torch.tensor(input_ids, dtype=torch.int64).reshape(shape),
        "labels": torch.tensor(labels, dtype=torch.int64).reshape(shape),
    }


def batch_of(examples: Sequence[Example], seq_len: int) -> Batch:
    """Rows ``prompt + answer + EOS + padding``; only the answer and ``EOS`` are labels.

    ``input_ids`` and ``labels`` [B, seq_len] int64, see :func:`batch_of_tokens`. Raises ``ValueError`` for an
    empty prompt or an example of more than ``seq_len`` bytes.
    """
    for example in examples:
        if not example.prompt:
            raise ValueError(f"examples: expected prompts of at least one byte, got {example!r}")
    rows = [[*encode(example.prompt), *encode(example.answer), EOS] for example in examples]
    targets = [[i >= len(example.prompt) for i in range(len(row))] for example, row in zip(examples, rows, strict=True)]
    return batch_of_tokens(rows, targets, seq_len)


@lru_cache(maxsize=16)
def permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order of ``size`` examples in an epoch; int64 [size], not to be written to."""
    # The raw stream of a bit generator is stable across numpy's versions; ties of 64 bits do not matter.
    raw = np.random.Philox(key=[seed & (2**64 - 1), epoch]).random_raw(size)
    order = np.argsort(raw, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


class ExampleStream(Positioned, Generic[T]):
    """Examples of any kind as a :class:`~narrowgauge.train.data.BatchSource`.

    ``collate(examples, seq_len)`` makes a batch of some of them. Each epoch is a permutation drawn from
    (``seed``, epoch), or the given order when ``epochs_shuffled`` is false (for a curriculum). Batches have
    ``batch_size`` rows over all ranks, of which each rank takes its share; the position is the same everywhere.
    The validation batches are all validation examples in order, the last one may be smaller, and every rank
    gets all of them. Examples need a ``repr`` that tells all of their content: it makes the fingerprint.
    Raises ``ValueError`` for no examples or a batch that cannot be made.
    """

    def __init__(
        self,
        train: Sequence[T],
        validation: Sequence[T],
        *,
        collate: Callable[[Sequence[T], int], Batch],
        batch_size: int,
        seq_len: int,
        seed: int,
        epochs_shuffled: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for name, examples in (("train", train), ("validation", validation)):
            if not len(examples):
                raise ValueError(f"{name}: expected at least one example, got none")
        self._rows = rank_rows(batch_size, rank, world_size)
        self.train, self.validation_examples = tuple(train), tuple(validation)
        self.batch_size, self.seq_len, self.seed = batch_size, seq_len, seed
        self.epochs_shuffled, self._collate = epochs_shuffled, collate
        self.position = 0
        self.validation()
        collate(self.train, seq_len)  # every example is checked here, not in the middle of a run

    def __iter__(self) -> "ExampleStream[T]":
        return self

    @property
    def epoch(self) -> float:
        """How many times every example was given so far, with a fraction."""
        return self.position * self.batch_size / len(self.train)

    def indices(self, position: int) -> list[int]:
        """Which training examples the global batch at a position holds, in order."""
        size = len(self.train)
        found = []
        for item in range(position * self.batch_size, (position + 1) * self.batch_size):
            epoch, offset = divmod(item, size)
            found.append(int(permutation(self.seed, epoch, size)[offset]) if self.epochs_shuffled else offset)
        return found

    def __next__(self) -> Batch:
        indices = self.indices(self.position)[self._rows]
        batch = self._collate([self.train[index] for index in indices], self.seq_len)
        self.position += 1
        return batch

    def validation(self) -> list[Batch]:
        """All validation examples, ``batch_size`` at a time."""
        starts = range(0, len(self.validation_examples), self.batch_size)
        parts = (self.validation_examples[start : start + self.batch_size] for start in starts)
        return [self._collate(part, self.seq_len) for part in parts]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all examples: tells whether a resumed run has the same ones."""
        digest = hashlib.sha256(f"{len(self.train)}:".encode())
        for example in (*self.train, *self.validation_examples):
            digest.update(f"{example!r}\n".encode())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """What the batches depend on besides the position."""
        return {
            "examples": self.fingerprint,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "seed": self.seed,
            "epochs_shuffled": self.epochs_shuffled,
        }


class TaskSource(ExampleStream[Example]):
    """Question and answer pairs as batches (see :func:`batch_of` and :class:`ExampleStream`)."""

    def __init__(
        self,
        train: Sequence[Example],
        validation: Sequence[Example],
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        epochs_shuffled: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            train,
            validation,
            collate=batch_of,
            batch_size=batch_size,
            seq_len=seq_len,
            seed=seed,
            epochs_shuffled=epochs_shuffled,
            rank=rank,
            world_size=world_size,
        )
