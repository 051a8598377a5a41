"""Examples that are tensors instead of text: inputs and labels, and batches of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from narrowgauge.train.data import Batch
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.tasks.source import ExampleStream


@dataclass(frozen=True, slots=True, eq=False)
class TensorExamples:
    """``inputs`` [N, …] float32 and ``labels`` [N, 1]: int64 classes, or float32 values of a regression."""

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.inputs.dtype != torch.float32 or not len(self.inputs):
            raise ValueError(f"inputs: expected float32 [N, …], got {self.inputs.dtype} {tuple(self.inputs.shape)}")
        if self.labels.shape != (len(self.inputs), 1) or self.labels.dtype not in (torch.int64, torch.float32):
            raise ValueError(
                f"labels: expected int64 or float32 [{len(self.inputs)}, 1],"
                f" got {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def split(self, num_validation: int) -> tuple["TensorExamples", "TensorExamples"]:
        """All but the last ``num_validation`` examples, and those."""
        if not 0 < num_validation < len(self):
            raise ValueError(f"num_validation: expected 1 … {len(self) - 1}, got {num_validation}")
        cut = len(self) - num_validation
        return (
            TensorExamples(self.inputs[:cut], self.labels[:cut]),
            TensorExamples(self.inputs[cut:], self.labels[cut:]),
        )


class TensorSource(ExampleStream[int]):
    """Tensor examples as a :class:`~narrowgauge.train.data.BatchSource`: each exactly once an epoch.

    A batch has ``input_ids`` [B, …] float32 (the name that the loss hands to the model) and ``labels`` [B, 1], so that
    a classifier with logits [B, 1, classes] trains with the ordinary cross-entropy.
    """

    def __init__(
        self,
        train: TensorExamples,
        validation: TensorExamples,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._inputs = torch.cat([train.inputs, validation.inputs])
        self._labels = torch.cat([train.labels, validation.labels])
        super().__init__(
            range(len(train)),
            range(len(train), len(train) + len(validation)),
            collate=self._gather,
            batch_size=batch_size,
            seq_len=1,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    def _gather(self, indices: Sequence[int], seq_len: int) -> Batch:
        chosen = torch.tensor(indices, dtype=torch.int64)
        return {"input_ids": self._inputs[chosen], "labels": self._labels[chosen]}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all tensors: tells whether a resumed run has the same ones."""
        digest = hashlib.sha256(f"{len(self.train)}:{tuple(self._inputs.shape)}:{self._labels.dtype}".encode())
        for tensor in (self._inputs, self._labels):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def uniform(shape: tuple[int, ...], seed: int, purpose: str) -> NDArray[np.float64]:
    """Numbers inside (0, 1), float64, from a bit generator's raw stream, which is stable across numpy's versions."""
    raw = np.random.Philox(key=derive_seed(seed, purpose)).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5).reshape(shape) * 2.0**-53


def normal(shape: tuple[int, ...], seed: int, purpose: str) -> NDArray[np.float64]:
    """Standard normal numbers, float64: the normal quantile of :func:`uniform`."""
    return ndtri(uniform(shape, seed, purpose))
