"""Byte-level text: each byte is a token, the vocabulary is 256, nothing is downloaded.

Batches are a pure function of (corpus, seed, step), so that a resumed run needs to know only the step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from narrowgauge.train.corpus import Batch, BatchCorpus, Corpus
from narrowgauge.train.position import Positioned
from narrowgauge.train.ranks import rank_rows
from narrowgauge.train.text_files import (
    TextFile,
    first_bytes,
    is_text,
    read_joined,
    split_by_hash,
    standard_library_files,
    text_files,
)

__all__ = ["Batch", "BatchSource", "BatchStream", "ByteCorpus", "Corpus"]

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


class ByteCorpus(Corpus):
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
        name = "the standard library" if path is None else str(path)
        if path is None:
            limit = STANDARD_LIBRARY_BYTES if max_bytes is None else max_bytes
            parts = _split_folder(standard_library_files(), name, limit)
        elif Path(path).is_file():
            parts = _split_file(Path(path), max_bytes)
        elif Path(path).is_dir():
            parts = _split_folder(text_files(Path(path)), name, max_bytes)
        else:
            raise ValueError(f"path: {path} does not exist; expected a text file or a folder of text files")
        super().__init__(name, *parts)

    @property
    def validation_bytes(self) -> NDArray[np.uint8]:
        """The held-out bytes, uint8 [M]."""
        return self.held_out.astype(np.uint8, copy=False)


class BatchStream(Positioned):
    """A corpus with a batch shape, a seed and a position: the :class:`BatchSource` of language modelling.

    ``batch_size`` counts the rows over all ranks. Rank ``rank`` of ``world_size`` gets its contiguous share of
    the rows of the batch that a single process would get; the validation batches and the state are the same on
    every rank. Raises ``ValueError`` when the rows cannot be shared evenly.
    """

    def __init__(
        self,
        corpus: BatchCorpus,
        *,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        validation_batches: int = 8,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._rows = rank_rows(batch_size, rank, world_size)
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
        return {name: tensor[self._rows] for name, tensor in batch.items()}

    def validation(self) -> list[Batch]:
        """The fixed validation batches."""
        return self.corpus.validation(self.validation_batches, self.batch_size, self.seq_len)

    def identity(self) -> dict[str, Any]:
        """What the batches depend on besides the position."""
        return {
            "corpus": self.corpus.fingerprint,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "seed": self.seed,
        }
