"""Text cut into windows that do not overlap, for experiments that count epochs.

:class:`~narrowgauge.train.data.BatchStream` draws windows that start anywhere; where "each part of the text exactly
once an epoch" matters, the windows here are the examples of an :class:`~narrowgauge.train.tasks.ExampleStream`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from narrowgauge.train.corpus import Batch, TokenArray
from narrowgauge.train.tasks.source import ExampleStream, permutation


def cut_windows(data: TokenArray, seq_len: int) -> list[bytes]:
    """``data`` [N] uint8 as ``N // (seq_len + 1)`` windows of ``seq_len + 1`` bytes, in order; the rest is left out.

    Raises ``TypeError`` for tokens that are not bytes, and ``ValueError`` where not even one window fits.
    """
    if data.dtype != np.uint8:
        raise TypeError(f"data: expected bytes, uint8, got {data.dtype}")
    size = seq_len + 1
    if seq_len < 1 or data.size < size:
        raise ValueError(f"seq_len: expected 1 … {data.size - 1} for {data.size} bytes, got {seq_len}")
    return [data[start : start + size].tobytes() for start in range(0, data.size - size + 1, size)]


def choose_windows(windows: Sequence[bytes], count: int, seed: int) -> list[bytes]:
    """``count`` different ones of ``windows``, chosen by ``seed``; ``ValueError`` where there are not so many."""
    if not 1 <= count <= len(windows):
        raise ValueError(f"count: expected 1 … {len(windows)}, got {count}")
    return [windows[index] for index in permutation(seed, 0, len(windows))[:count]]


def batch_of_windows(windows: Sequence[bytes], seq_len: int) -> Batch:
    """Windows as a batch [B, seq_len] in which every token has a label; ``ValueError`` for one of another length."""
    for index, window in enumerate(windows):
        if len(window) != seq_len + 1:
            raise ValueError(f"windows: window {index} has {len(window)} bytes, expected seq_len + 1 = {seq_len + 1}")
    tokens = torch.from_numpy(np.frombuffer(b"".join(windows), dtype=np.uint8).astype(np.int64))
    tokens_BS = tokens.reshape(len(windows), seq_len + 1)
    return {"input_ids": tokens_BS[:, :-1].contiguous(), "labels": tokens_BS[:, 1:].contiguous()}


class WindowStream(ExampleStream[bytes]):
    """Windows of bytes as batches: every one exactly once an epoch, in another order each time.

    ``train`` and ``validation`` are windows of ``seq_len + 1`` bytes. Everything else is as in
    :class:`~narrowgauge.train.tasks.ExampleStream`.
    """

    def __init__(
        self, train: Sequence[bytes], validation: Sequence[bytes], *, batch_size: int, seq_len: int, seed: int
    ) -> None:
        super().__init__(train, validation, collate=batch_of_windows, batch_size=batch_size, seq_len=seq_len, seed=seed)
