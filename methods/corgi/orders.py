"""The orders themselves: from the subject and level of each example to a sequence of indices."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from narrowgauge.train.tasks.source import permutation


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Subject and level of ``n`` examples, as ranks: ``subject[i]`` by first appearance, ``level[i]`` ascending."""

    subject: tuple[int, ...]
    level: tuple[int, ...]

    @classmethod
    def of(cls, subjects: Sequence[Hashable], levels: Sequence[Any]) -> Catalogue:
        """Levels are what can be sorted: numbers, or tuples such as (Bloom level, stage).

        Raises ``ValueError`` for no examples, or another number of levels than of subjects.
        """
        if not subjects or len(subjects) != len(levels):
            raise ValueError(
                f"levels: expected one for each of {len(subjects)} subjects, at least 1, got {len(levels)}"
            )
        by_appearance = {subject: rank for rank, subject in enumerate(dict.fromkeys(subjects))}
        by_size = {level: rank for rank, level in enumerate(sorted(set(levels)))}
        return cls(tuple(by_appearance[s] for s in subjects), tuple(by_size[level] for level in levels))

    def reversed(self) -> Catalogue:
        """The hardest level first."""
        top = max(self.level)
        return Catalogue(self.subject, tuple(top - level for level in self.level))

    def places(self) -> list[tuple[int, int]]:
        """For each example: how many of its subject and level stand before it, and how many there are."""
        groups = list(zip(self.level, self.subject, strict=True))
        counts: dict[tuple[int, int], int] = {}
        before = []
        for group in groups:
            before.append(counts.get(group, 0))
            counts[group] = before[-1] + 1
        return [(place, counts[group]) for place, group in zip(before, groups, strict=True)]

    def sorted_by(self, key: Callable[[int], tuple[float, ...]]) -> list[int]:
        """The examples' indices by ``key(index)``; equal ones stay in order."""
        return sorted(range(len(self.level)), key=key)


def interleaving(items: Catalogue, *, proportional: bool = False) -> list[int]:
    """Level after level, at each the subjects in turn; as all orders but :func:`capped` a permutation of 0 … n - 1."""
    turn = [(place + 0.5) / size if proportional else place for place, size in items.places()]
    return items.sorted_by(lambda i: (items.level[i], turn[i], items.subject[i]))


def blocking(items: Catalogue) -> list[int]:
    """Subject after subject, easy to hard in each."""
    return items.sorted_by(lambda i: (items.subject[i], items.level[i]))


def clustering(items: Catalogue) -> list[int]:
    """Level after level, subject after subject in each."""
    return items.sorted_by(lambda i: (items.level[i], items.subject[i]))


def spiral(items: Catalogue, rounds: int) -> list[int]:
    """Clustering in ``rounds`` rounds, each of another share of every subject and level."""
    turn = [place * rounds // size for place, size in items.places()]
    return items.sorted_by(lambda i: (turn[i], items.level[i], items.subject[i]))


def capped(items: Catalogue, epochs: int, seed: int) -> list[int]:
    """``epochs · n`` draws in equal stages, one for each level; a stage goes through all levels up to its own.

    In random order, and again when they are used up. So the examples of the first level are drawn more often in all
    than those of the last one.
    """
    stages, total = max(items.level) + 1, epochs * len(items.level)
    order: list[int] = []
    for stage in range(stages):
        pool = [index for index, level in enumerate(items.level) if level <= stage]
        end = total * (stage + 1) // stages
        while len(order) < end:
            # Where a permutation begins is different for each, so it may number them.
            mixed = [pool[k] for k in permutation(seed, len(order), len(pool))]
            order += mixed[: end - len(order)]
    return order
