"""A text as two arrays of tokens, one to train on and one that is held out, and windows of them as batches.

Batches are a pure function of (corpus, seed, step), so that a resumed run needs to know only the step.
"""

import hashlib
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Batch = dict[str, Tensor]
"""``input_ids`` [B, T] int64 and ``labels`` [B, T] int64: ``labels[b, t]`` is the token that follows
``input_ids[b, t]``, or -100 where nothing is to be learned. Methods may add tensors of their own."""

TokenArray = NDArray[np.integer[Any]]


@runtime_checkable
class BatchCorpus(Protocol):
    """What a stream cuts batches from: a pure function of the step, and fixed validation batches."""

    @property
    def fingerprint(self) -> str: ...

    def batch(self, step: int, batch_size: int, seq_len: int, seed: int = 0) -> Batch: ...

    def validation(self, num_batches: int, batch_size: int, seq_len: int) -> list[Batch]: ...


class Corpus:
    """Tokens to train on and held-out ones: ``train`` [N] and ``held_out`` [M], integers 0 and above.

    ``name`` is for messages, which call tokens of dtype uint8 bytes. The arrays are kept as they are (they may be
    memory-mapped), not copied, and must not change.
    """

    def __init__(self, name: str, train: TokenArray, held_out: TokenArray) -> None:
        for part, array in (("train", train), ("held_out", held_out)):
            if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
                raise ValueError(f"{part}: expected a 1-D array of integers, got {array.dtype} {array.shape}")
        self.name, self.train, self.held_out = name, train, held_out
        self.unit = "bytes" if train.dtype == np.uint8 else "tokens"

    def __repr__(self) -> str:
        sizes = f"{self.train.size:,} + {self.held_out.size:,} {self.unit}"
        return f"{type(self).__name__}({self.name}: {sizes})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of both parts: tells whether a resumed run reads the same text."""
        digest = hashlib.sha256(f"{self.train.size}:".encode())
        for part in (self.train, self.held_out):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def batch(self, step: int, batch_size: int, seq_len: int, seed: int = 0) -> Batch:
        """The training batch of ``step``: windows that start anywhere, each drawn independently.

        Raises ``ValueError`` when the training part is shorter than ``seq_len + 1`` tokens.
        """
        if step < 0:
            raise ValueError(f"step: expected 0 or more, got {step}")
        num_starts = self._num_starts(self.train, "training", batch_size, seq_len)
        # The raw stream of a bit generator is stable across numpy's versions (what Generator makes of it is
        # not); num_starts is so far below 2^64 that the remainder's bias cannot be seen.
        random = np.random.Philox(key=[seed & (2**64 - 1), step]).random_raw(batch_size)
        return _windows(self.train, (random % np.uint64(num_starts)).astype(np.int64), seq_len)

    def validation(self, num_batches: int, batch_size: int, seq_len: int) -> list[Batch]:
        """Fixed validation batches: different windows, evenly spread over the held-out part.

        Raises ``ValueError`` when it has fewer than ``num_batches · batch_size`` different windows.
        """
        if num_batches < 1:
            raise ValueError(f"num_batches: expected at least 1, got {num_batches}")
        num_starts = self._num_starts(self.held_out, "validation", batch_size, seq_len)
        num_windows = num_batches * batch_size
        if num_windows > num_starts:
            raise ValueError(
                f"num_batches: {num_batches} batches of {batch_size} windows are more than the {num_starts}"
                f" different windows of {seq_len + 1} {self.unit} in the validation part of {self.name}"
            )
        starts = np.arange(num_windows, dtype=np.int64) * (num_starts - 1) // max(1, num_windows - 1)
        return [_windows(self.held_out, part, seq_len) for part in starts.reshape(num_batches, -1)]

    def _num_starts(self, data: TokenArray, part: str, batch_size: int, seq_len: int) -> int:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if seq_len < 1 or data.size <= seq_len:
            raise ValueError(
                f"seq_len: expected 1 … {data.size - 1}, as the {part} part of {self.name} has {data.size}"
                f" {self.unit}, got {seq_len}"
            )
        return data.size - seq_len


def _windows(data: TokenArray, starts: NDArray[np.int64], seq_len: int) -> Batch:
    tokens = torch.from_numpy(data[starts[:, None] + np.arange(seq_len + 1)].astype(np.int64))
    return {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}
