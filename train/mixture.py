"""Several sources as one, with weights that may change from step to step.

:class:`MixtureStream` gives a whole batch of one source at each step: sources of any kind (tasks, corpora), each of
which goes on where it was the last time it was chosen. :class:`MixtureCorpus` mixes corpora row by row, so that every
batch has about the shares asked for; it is cut by a :class:`~narrowgauge.train.data.BatchStream`.

Which source a step or a row takes is a pure function of (seed, step): source ``i`` with probability
``weights[i] / sum(weights)``.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from narrowgauge.train.corpus import Batch, BatchCorpus
from narrowgauge.train.data import BatchSource
from narrowgauge.train.rng import derive_seed

Weights = Sequence[float] | Callable[[int], Sequence[float]]
"""One weight of 0 or above for each source, at least one above 0; or a function of the step that returns them."""


def _shares(weights: Weights, step: int, count: int) -> NDArray[np.float64]:
    """The probabilities at a step, float64 [count]."""
    now = np.asarray(weights(step) if callable(weights) else weights, dtype=np.float64)
    if now.shape != (count,) or not np.all(np.isfinite(now)) or np.any(now < 0) or not now.sum() > 0:
        raise ValueError(
            f"weights: expected {count} finite numbers of 0 or above, not all 0, got {now.tolist()} at step {step}"
        )
    return now / now.sum()


def _choices(shares: NDArray[np.float64], seed: int, step: int, count: int) -> NDArray[np.int64]:
    """``count`` independent draws from the shares, int64."""
    raw = np.random.Philox(key=[derive_seed(seed, "mixture"), step]).random_raw(count)
    edges = np.cumsum(shares)
    edges[np.flatnonzero(shares)[-1] :] = np.inf  # rounding must not leave a gap below 1, nor reach a share of 0
    return np.searchsorted(edges, (raw >> np.uint64(11)) * 2.0**-53, side="right").astype(np.int64)


class MixtureStream:
    """A :class:`~narrowgauge.train.data.BatchSource` that takes each batch from one of several.

    ``sources`` maps names to sources; only a source that is chosen moves on. The validation batches are those of
    all sources, in their order. Raises ``ValueError`` for no sources or weights that are none.
    """

    def __init__(self, sources: Mapping[str, BatchSource], weights: Weights, seed: int) -> None:
        if not sources:
            raise ValueError("sources: expected at least one, got none")
        self.sources, self.weights, self.seed = dict(sources), weights, seed
        self.position = 0
        _shares(weights, 0, len(sources))

    def __iter__(self) -> "MixtureStream":
        return self

    def choice(self, step: int) -> str:
        """The name of the source that a step takes its batch from."""
        shares = _shares(self.weights, step, len(self.sources))
        return list(self.sources)[int(_choices(shares, self.seed, step, 1)[0])]

    def __next__(self) -> Batch:
        batch = next(self.sources[self.choice(self.position)])
        self.position += 1
        return batch

    def validation(self) -> list[Batch]:
        """The validation batches of all sources, one source after the other."""
        return [batch for source in self.sources.values() for batch in source.validation()]

    def state_dict(self) -> dict[str, Any]:
        """The position, and the states of all sources."""
        states = {name: source.state_dict() for name, source in self.sources.items()}
        return {"seed": self.seed, "sources": states, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved position; ``ValueError`` when it was saved by a stream of other sources or seed."""
        for key, ours, theirs in (
            ("seed", self.seed, state["seed"]),
            ("sources", list(self.sources), list(state["sources"])),
        ):
            if ours != theirs:
                raise ValueError(f"data: the saved position belongs to {key}={theirs!r}, this stream has {ours!r}")
        for name, source in self.sources.items():
            source.load_state_dict(state["sources"][name])
        self.position = int(state["position"])


class MixtureCorpus:
    """Corpora whose rows are mixed within each batch; see :class:`~narrowgauge.train.corpus.BatchCorpus`.

    Raises ``ValueError`` for no corpora or weights that are none.
    """

    def __init__(self, corpora: Mapping[str, BatchCorpus], weights: Weights) -> None:
        if not corpora:
            raise ValueError("corpora: expected at least one, got none")
        self.corpora, self.weights = dict(corpora), weights
        _shares(weights, 0, len(corpora))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all corpora's names and fingerprints; a function of the step cannot be told by it."""
        parts = [f"{name}={corpus.fingerprint}" for name, corpus in self.corpora.items()]
        weights = "a function" if callable(self.weights) else _shares(self.weights, 0, len(parts)).tolist()
        return hashlib.sha256("\n".join([*parts, str(weights)]).encode()).hexdigest()

    def sources_of(self, step: int, batch_size: int, seed: int = 0) -> NDArray[np.int64]:
        """Which corpus, by its place in ``corpora``, each row of a step's batch comes from; int64 [B]."""
        return _choices(_shares(self.weights, step, len(self.corpora)), seed, step, batch_size)

    def batch(self, step: int, batch_size: int, seq_len: int, seed: int = 0) -> Batch:
        """The training batch of ``step``: row i is row i of the batch of the corpus it comes from."""
        sources = torch.from_numpy(self.sources_of(step, batch_size, seed))
        mixed: Batch = {}
        for place, (name, corpus) in enumerate(self.corpora.items()):
            if not torch.any(sources == place):
                continue
            for key, tensor in corpus.batch(step, batch_size, seq_len, derive_seed(seed, name)).items():
                rows = (sources == place).reshape(-1, *[1] * (tensor.ndim - 1))
                mixed[key] = torch.where(rows, tensor, mixed[key]) if key in mixed else tensor
        return mixed

    def validation(self, num_batches: int, batch_size: int, seq_len: int) -> list[Batch]:
        """``num_batches`` validation batches of each corpus, one corpus after the other."""
        return [
            batch for corpus in self.corpora.values() for batch in corpus.validation(num_batches, batch_size, seq_len)
        ]
