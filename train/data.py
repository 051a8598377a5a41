"""Byte-level text: each byte is a token, the vocabulary is 256, nothing is downloaded.

Batches are a pure function of (corpus, seed, step), so that a resumed run needs to know only the step.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.train.text_files import (
    TextFile,
    first_bytes,
    is_text,
    read_joined,
    split_by_hash,
    standard_library_files,
    text_files,
)

Batch = dict[str, Tensor]
"""``input_ids`` [B, T] int64 and ``labels`` [B, T] int64: ``labels[b, t]`` is the token that follows
``input_ids[b, t]``, or -100 where nothing is to be learned. Methods may add tensors of their own."""

STANDARD_LIBRARY_BYTES = 8_000_000
MIN_BYTES = 1024
VALIDATION_FRACTION = 0.1


@runtime_checkable
class BatchSource(Protocol):
    """What the trainer reads: endless batches with a position, and fixed validation batches."""

    def __next__(self) -> Batch: ...

    def validation(self) -> list[Batch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def _split_file(path: Path, max_bytes: int | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if path.stat().st_size < MIN_BYTES:
        raise ValueError(f"path: {path} has {path.stat().st_size} bytes, a corpus needs at least {MIN_BYTES}")
    if not is_text(path):
        raise ValueError(f"path: {path} is not text (it holds zero bytes)")
    data = np.memmap(path, dtype=np.uint8, mode="r")[:max_bytes]
    cut = data.size - int(data.size * VALIDATION_FRACTION)
    return data[:cut], data[cut:]


def _split_folder(
    files: list[TextFile], where: str, max_bytes: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    kept = files if max_bytes is None else first_bytes(files, max_bytes)
    total = sum(file.size for file in kept)
    if len(kept) < 2 or total < MIN_BYTES:
        raise ValueError(
            f"path: a corpus needs two text files (one is held out for validation) and {MIN_BYTES} bytes;"
            f" {where} has {len(kept)} with {total} bytes, max_bytes={max_bytes};"
            " one text file may also be given itself"
        )
    train, validation = split_by_hash(kept, VALIDATION_FRACTION)
    return read_joined(train), read_joined(validation)


class ByteCorpus:
    """Text as bytes, split into a training and a validation part that share no byte.

    ``path=None`` reads the standard library's own source files (up to 8 MB, or ``max_bytes``); otherwise a
    text file (memory-mapped) or a folder of text files. One file: its last 10 % of bytes are the validation
    part. Several: about 10 % of the bytes, by whole files, chosen by a hash of the relative path. ``train``
    and ``validation_bytes`` are uint8 arrays [N]. Raises ``ValueError`` for a missing, binary or too small
    ``path``.
    """

    def __init__(self, path: str | Path | None = None, *, max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes < MIN_BYTES:
            raise ValueError(f"max_bytes: expected at least {MIN_BYTES}, got {max_bytes}")
        self.name = "the standard library" if path is None else str(path)
        if path is None:
            limit = STANDARD_LIBRARY_BYTES if max_bytes is None else max_bytes
            parts = _split_folder(standard_library_files(), self.name, limit)
        elif Path(path).is_file():
            parts = _split_file(Path(path), max_bytes)
        elif Path(path).is_dir():
            parts = _split_folder(text_files(Path(path)), self.name, max_bytes)
        else:
            raise ValueError(f"path: {path} does not exist; expected a text file or a folder of text files")
        self.train, self.validation_bytes = parts

    def __repr__(self) -> str:
        sizes = f"{self.train.size:,} + {self.validation_bytes.size:,} bytes"
        return f"{type(self).__name__}({self.name}: {sizes})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of both parts: tells whether a resumed run reads the same text."""
        digest = hashlib.sha256(f"{self.train.size}:".encode())
        for part in (self.train, self.validation_bytes):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def batch(self, step: int, batch_size: int, seq_len: int, seed: int = 0) -> Batch:
        """The training batch of ``step``: windows that start anywhere, each drawn independently.

        Raises ``ValueError`` when the training part is shorter than ``seq_len + 1`` bytes.
        """
        if step < 0:
            raise ValueError(f"step: expected 0 or more, got {step}")
        num_starts = self._num_starts(self.train, "training", batch_size, seq_len)
        # The raw stream of a bit generator is stable across numpy's versions (what Generator makes of it is
        # not); num_starts is so far below 2^64 that the remainder's bias cannot be seen.
        random = np.random.Philox(key=[seed & (2**64 - 1), step]).random_raw(batch_size)
        return _windows(self.train, (random % np.uint64(num_starts)).astype(np.int64), seq_len)

    def validation(self, num_batches: int, batch_size: int, seq_len: int) -> list[Batch]:
        """Fixed validation batches: different windows, evenly spread over the validation part.

        Raises ``ValueError`` when it has fewer than ``num_batches · batch_size`` different windows.
        """
        if num_batches < 1:
            raise ValueError(f"num_batches: expected at least 1, got {num_batches}")
        num_starts = self._num_starts(self.validation_bytes, "validation", batch_size, seq_len)
        num_windows = num_batches * batch_size
        if num_windows > num_starts:
            raise ValueError(
                f"num_batches: {num_batches} batches of {batch_size} windows are more than the {num_starts}"
                f" different windows of {seq_len + 1} bytes in the validation part of {self.name}"
            )
        starts = np.arange(num_windows, dtype=np.int64) * (num_starts - 1) // max(1, num_windows - 1)
        return [_windows(self.validation_bytes, part, seq_len) for part in starts.reshape(num_batches, -1)]

    def _num_starts(self, data: NDArray[np.uint8], part: str, batch_size: int, seq_len: int) -> int:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if seq_len < 1 or data.size <= seq_len:
            raise ValueError(
                f"seq_len: expected 1 … {data.size - 1}, as the {part} part of {self.name} has {data.size}"
                f" bytes, got {seq_len}"
            )
        return data.size - seq_len


def _windows(data: NDArray[np.uint8], starts: NDArray[np.int64], seq_len: int) -> Batch:
    tokens = torch.from_numpy(data[starts[:, None] + np.arange(seq_len + 1)].astype(np.int64))
    return {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}


class BatchStream:
    """A corpus with a batch shape, a seed and a position: the :class:`BatchSource` of language modelling."""

    def __init__(
        self,
        corpus: ByteCorpus,
        *,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        validation_batches: int = 8,
    ) -> None:
        self.corpus = corpus
        self.batch_size, self.seq_len, self.seed = batch_size, seq_len, seed
        self.validation_batches = validation_batches
        self.position = 0
        self.validation()  # every size is checked here, not in the middle of a run
        corpus.batch(0, batch_size, seq_len, seed)

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Batch:
        batch = self.corpus.batch(self.position, self.batch_size, self.seq_len, self.seed)
        self.position += 1
        return batch

    def validation(self) -> list[Batch]:
        """The fixed validation batches."""
        return self.corpus.validation(self.validation_batches, self.batch_size, self.seq_len)

    def _identity(self) -> dict[str, Any]:
        return {
            "corpus": self.corpus.fingerprint,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "seed": self.seed,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {**self._identity(), "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved position; ``ValueError`` when it was saved by a stream of other batches."""
        for key, ours in self._identity().items():
            if state[key] != ours:
                raise ValueError(f"data: the saved position belongs to {key}={state[key]!r}, this stream has {ours!r}")
        self.position = int(state["position"])
