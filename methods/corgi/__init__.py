"""CORGI: the order of instruction data after a human curriculum, easy to hard with the subjects interleaved.

Paper: Lee, Cho, Yoo, "Instruction Tuning with Human Curriculum", Findings of NAACL 2024, arXiv:2310.09518.

Mechanism. Every example has a subject and a difficulty (in the paper the level of Bloom's taxonomy, then the stage of
education). Only the order of the examples changes. *Interleaving* goes through the difficulties once, and at each the
subjects take turns, so that neighbours, and a batch, mix subjects::

    for level in ascending difficulty:
        queue[s] = the examples of subject s at this level, in their own order
        while any queue has examples: for s in subjects: next of queue[s]

Its rivals; where the rule leaves a choice, the examples' own order decides::

    blocking      subject after subject, easy to hard in each
    clustering    level after level, subject after subject in each
    spiral        rounds; each takes its share of every subject and level, easy to hard inside the round
    random        another permutation each epoch
    capped        as many stages as levels; a stage draws at random from all levels up to its own

The authors give no code: how the difficulty is put together, that the order is repeated each epoch, and what exactly
clustering and spiral do, is this implementation's reading of the text. ``capped`` is not the paper's: easy examples do
not disappear while hard ones are learned. Nor is ``proportional`` interleaving: where subjects differ in size, example
``j`` of ``m`` stands at ``(j + 1/2) / m`` of its level, so that no tail of the largest subject remains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from narrowgauge.methods.corgi.experiment import corgi_experiment
from narrowgauge.methods.corgi.orders import Catalogue, blocking, capped, clustering, interleaving, spiral
from narrowgauge.train import BatchSource, Experiment, PublishedMethod, register
from narrowgauge.train.tasks import ExampleStream

__all__ = ["ORDERS", "Catalogue", "Corgi", "blocking", "capped", "clustering", "interleaving", "spiral"]

ORDERS = ("interleaving", "blocking", "clustering", "spiral", "random", "capped")


@register
@dataclass(eq=False)
class Corgi(PublishedMethod):
    """Puts the examples of the run's source into the order of a curriculum.

    The source is an :class:`~narrowgauge.train.tasks.ExampleStream` (``TaskSource`` is one) whose examples have an
    attribute ``subject`` and those that ``key`` names: with ``key="bloom+stage"`` the difficulty is ``bloom``, then
    ``stage``. ``order``: see the module; it is repeated each epoch (``random``: anew). ``reverse``: hard to easy.
    ``proportional``: of interleaving. ``rounds``: of the spiral. ``epochs``: of ``capped``, which then begins again.
    ``seed``: of ``random`` and ``capped``. Raises ``ValueError`` for other settings and for examples without the
    attributes.
    """

    name = "corgi"
    summary = "order the examples from easy to hard, the subjects interleaved"
    paper = "Instruction Tuning with Human Curriculum (Findings of NAACL 2024)"
    arxiv = "2310.09518"
    usage = "Trainer(model, TaskSource(subjects(170, 10, seed=0).train, …), …, methods=[Corgi(order='interleaving')])"

    order: str = "interleaving"
    key: str = "level"
    reverse: bool = False
    proportional: bool = False
    rounds: int = 4
    epochs: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order: expected one of {', '.join(ORDERS)}, got {self.order!r}")
        if self.proportional and self.order != "interleaving":
            raise ValueError(f"proportional: expected with order='interleaving', got order={self.order!r}")
        for name, number in (("rounds", self.rounds), ("epochs", self.epochs)):
            if number < 1:
                raise ValueError(f"{name}: expected at least 1, got {number}")

    def permute(self, items: Catalogue) -> list[int]:
        """Indices of the examples in the order in which they are trained on, until the order begins again.

        Raises ``ValueError`` for ``random``, which does not repeat.
        """
        items = items.reversed() if self.reverse else items
        orders: dict[str, Callable[[], list[int]]] = {
            "interleaving": lambda: interleaving(items, proportional=self.proportional),
            "blocking": lambda: blocking(items),
            "clustering": lambda: clustering(items),
            "spiral": lambda: spiral(items, self.rounds),
            "capped": lambda: capped(items, self.epochs, self.seed),
        }
        if self.order not in orders:
            raise ValueError("order: 'random' is another one each epoch")
        return orders[self.order]()

    def source(self, data: BatchSource) -> ExampleStream[Any]:
        """The same examples, batch shape and validation in the curriculum's order; ``data`` itself is not changed."""
        if not isinstance(data, ExampleStream):
            raise ValueError(f"data: corgi orders examples, expected an ExampleStream, got {type(data).__name__}")
        ordered = copy.copy(data)
        if self.order == "random":
            ordered.seed, ordered.epochs_shuffled = self.seed, True
            return ordered
        names = ("subject", *self.key.split("+"))
        for name in names:
            if not all(hasattr(example, name) for example in data.train):
                raise ValueError(f"data: corgi needs examples with {' and '.join(names)}; not all have {name!r}")
        levels = [tuple(getattr(example, name) for name in names[1:]) for example in data.train]
        order = self.permute(Catalogue.of([example.subject for example in data.train], levels))
        ordered.train, ordered.epochs_shuffled = tuple(data.train[index] for index in order), False
        # What the fingerprint tells of is what has changed; it may have been asked for already.
        vars(ordered).pop("fingerprint", None)
        return ordered

    @classmethod
    def experiment(cls) -> Experiment:
        """Held-out accuracy after training on the same examples in different orders."""
        return corgi_experiment(cls)
