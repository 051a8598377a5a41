"""Prefixes with their judged candidates, as a source of batches: the original suffix, a rewrite, and the policy's own.

The candidates of a prefix are ``C = 2 + K`` (one less without a rewriter): the original suffix first, then its
rewrite, then ``K`` rollouts at temperature 1, as long as the original and without an end.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from narrowgauge.methods.self_improving.judge import Judge
from narrowgauge.train.data import Batch
from narrowgauge.train.generate import generate
from narrowgauge.train.position import Positioned
from narrowgauge.train.rng import derive_seed
from narrowgauge.train.tasks import Example, batch_of_tokens
from narrowgauge.train.tasks.source import permutation
from narrowgauge.train.tokens import encode

Rewriter = Callable[[bytes, bytes], bytes]
"""(prefix, suffix) to a better suffix, not empty; one that needs no repair comes back as it is."""
CHUNK = 128


def prefixes_and_suffixes(document: bytes, chunk: int = CHUNK, *, context: int | None = None) -> list[Example]:
    """A document cut into chunks: each whole chunk but the first is an answer, all before it the prompt.

    ``context``: the last so many bytes of the prompt are kept (``None``: all).
    """
    if chunk < 1 or (context is not None and context < 1):
        raise ValueError(f"chunk, context: expected at least 1, got {chunk} and {context}")
    starts = range(chunk, len(document) - chunk + 1, chunk)
    return [
        Example(document[0 if context is None else max(0, start - context) : start], document[start : start + chunk])
        for start in starts
    ]


class CandidateSource(Positioned):
    """A :class:`~narrowgauge.train.data.BatchSource` of ``batch_size`` prefixes with all their candidates.

    ``examples``: prompt (prefix) and answer (suffix) in bytes, both not empty; each once an epoch, in an order drawn
    from ``seed``. ``rollouts``: K, 0 or more. ``rewrite=None``: no rewrites.

    A batch has ``input_ids`` and ``labels`` [P·C, T] (labels on the candidate alone), the candidates of a prefix
    together; ``candidate_reward`` [P·C]; ``is_rollout`` [P·C] bool. Rollouts are functions of seed, position and the
    policy's weights, so that a resumed run has the same. The policy is told by :meth:`bind`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        judge: Judge,
        *,
        rewrite: Rewriter | None = None,
        rollouts: int = 16,
        batch_size: int,
        seed: int = 0,
        validation_batches: Sequence[Batch] = (),
    ) -> None:
        if not examples or not all(example.prompt and example.answer for example in examples):
            raise ValueError("examples: expected at least one, each with a prompt and an answer that are not empty")
        if batch_size < 1 or rollouts < 0:
            raise ValueError(f"batch_size, rollouts: expected at least 1 and 0, got {batch_size} and {rollouts}")
        self.examples, self.judge, self.rewrite = tuple(examples), judge, rewrite
        self.rollouts, self.batch_size, self.seed = rollouts, batch_size, seed
        self.num_candidates = 1 + (rewrite is not None) + rollouts
        self.validation_batches = list(validation_batches)
        self.position = 0
        self._policy: nn.Module | None = None

    def bind(self, policy: nn.Module) -> None:
        """Say who writes the rollouts."""
        self._policy = policy

    def __next__(self) -> Batch:
        batch = self.judged(self._chosen(self.position))
        self.position += 1
        return batch

    def _chosen(self, position: int) -> list[Example]:
        places = range(position * self.batch_size, (position + 1) * self.batch_size)
        epochs = [divmod(place, len(self.examples)) for place in places]
        return [self.examples[permutation(self.seed, epoch, len(self.examples))[offset]] for epoch, offset in epochs]

    def judged(self, examples: Sequence[Example]) -> Batch:
        """The batch of these examples, with rollouts by the policy as it is now. ``ValueError`` before :meth:`bind`."""
        prefixes = [encode(example.prompt) for example in examples]
        candidates = self.candidates(examples)
        rewards = self.judge(prefixes, candidates)
        if rewards.shape != (len(examples), self.num_candidates):
            raise ValueError(
                f"judge: expected rewards of shape [{len(examples)}, {self.num_candidates}], got {list(rewards.shape)}"
            )
        rows = [[*prefix, *text] for prefix, group in zip(prefixes, candidates, strict=True) for text in group]
        starts = [len(prefix) for prefix in prefixes for _ in range(self.num_candidates)]
        targets = [[index >= start for index in range(len(row))] for start, row in zip(starts, rows, strict=True)]
        first_rollout = self.num_candidates - self.rollouts
        is_rollout = torch.arange(self.num_candidates) >= first_rollout
        return batch_of_tokens(rows, targets, max(map(len, rows)) - 1) | {
            "candidate_reward": rewards.float().flatten(),
            "is_rollout": is_rollout.repeat(len(examples)),
        }

    def candidates(self, examples: Sequence[Example]) -> list[list[list[int]]]:
        """The tokens of the C candidates of each example."""
        groups = [[encode(example.answer)] for example in examples]
        if self.rewrite is not None:
            for example, group in zip(examples, groups, strict=True):
                group.append(encode(self._rewritten(self.rewrite, example)))
        if self.rollouts:
            for group, written in zip(groups, self._written(examples), strict=True):
                group.extend(written)
        return groups

    def _rewritten(self, rewrite: Rewriter, example: Example) -> bytes:
        text = rewrite(example.prompt, example.answer)
        if not text:
            raise ValueError(f"rewrite: expected a suffix that is not empty, got none for {example!r}")
        return text

    def _written(self, examples: Sequence[Example]) -> list[list[list[int]]]:
        if self._policy is None:
            raise ValueError("data: a CandidateSource needs a policy: give the trainer a method that binds it")
        prompts = [encode(example.prompt) for example in examples for _ in range(self.rollouts)]
        longest = max(len(example.answer) for example in examples)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "candidates", self.position))
        rows = generate(self._policy, prompts, max_new_tokens=longest, temperature=1.0, eos=None, generator=generator)
        lengths = [len(example.answer) for example in examples for _ in range(self.rollouts)]
        cut = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return [cut[start : start + self.rollouts] for start in range(0, len(cut), self.rollouts)]

    def validation(self) -> list[Batch]:
        """The batches given as ``validation_batches``."""
        return self.validation_batches

    def identity(self) -> dict[str, Any]:
        """What a position is a position in, but for the judge and the rewriter, which are functions."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "rollouts": self.rollouts,
            "num_candidates": self.num_candidates,
            "num_examples": len(self.examples),
        }
