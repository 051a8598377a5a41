"""Different problems for training and for validation, drawn from a task's own distribution."""

from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar

from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.tasks.source import Example

T = TypeVar("T")
_TRIES_PER_PROBLEM = 20  # of N problems the last one is missed with a probability of exp(-20)


class Split(NamedTuple):
    """Examples to train on and examples that were held out: no problem is in both, none comes twice."""

    train: list[Example]
    validation: list[Example]


def distinct(make: Callable[[Draws], T], key: Callable[[T], Hashable], count: int, draws: Draws) -> list[T]:
    """``count`` of what ``make`` draws, in the order drawn, each ``key`` only once.

    Raises ``ValueError`` when a new one stops turning up: the task does not have that many different problems.
    """
    found: dict[Hashable, T] = {}
    since_last = 0
    while len(found) < count:
        item = make(draws)
        since_last = since_last + 1 if key(item) in found else 0
        found.setdefault(key(item), item)
        if since_last > _TRIES_PER_PROBLEM * (len(found) + 10):
            raise ValueError(
                f"count: this task has hardly more than {len(found)} different problems, asked for {count}"
            )
    return list(found.values())


def split_of(
    make: Callable[[Draws], Example], num_train: int, num_validation: int, draws: Draws, *, key_bytes: int | None = None
) -> Split:
    """The first ``num_train`` different examples, and the ``num_validation`` that follow.

    Two examples are the same problem when their prompts are, up to ``key_bytes`` where it is given. Raises
    ``ValueError`` for numbers below 1, or more problems than the task has.
    """
    for name, number in (("num_train", num_train), ("num_validation", num_validation)):
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
    examples = distinct(make, lambda example: example.prompt[:key_bytes], num_train + num_validation, draws)
    return Split(examples[:num_train], examples[num_train:])
