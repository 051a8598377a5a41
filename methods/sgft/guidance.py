"""What a solution guidance may be: steps that say what to do, and nothing that was computed.

A guidance is accepted where it has between ``min_steps`` and ``max_steps`` steps and holds none of: an operation
between two numbers (``3 + 4``), a result (``= 7``), ``the answer is``, a number of more than ``max_digits`` digits,
and, where the question is given, a number that the question does not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from narrowgauge.train.tasks import Example

_OPERATION = re.compile(r"\d\s*[-+*/×÷^%–−]\s*\d")
_RESULT = re.compile(r"=\s*-?\s*\d")
_ANSWER = re.compile(r"\b(?:the\s+)?(?:final\s+)?answer\s+is\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_LABEL = re.compile(r"^\s*(?:step\s*)?\d+\s*[.):]\s*", re.IGNORECASE)


class Verdict(NamedTuple):
    """``reason``: why a guidance was not accepted; empty where it was."""

    accepted: bool
    reason: str


def lines(text: str) -> list[str]:
    """The lines that are not empty, without numbers of steps such as ``2.`` or ``Step 2:`` in front."""
    return [stripped for line in text.splitlines() if (stripped := _LABEL.sub("", line).strip())]


@dataclass(frozen=True)
class GuidanceCheck:
    """The rules above. ``split`` gives the steps of a text; by default each line is one.

    Raises ``ValueError`` unless 1 ≤ ``min_steps`` ≤ ``max_steps`` and ``max_digits`` ≥ 1.
    """

    min_steps: int = 2
    max_steps: int = 6
    max_digits: int = 4
    split: Callable[[str], Sequence[str]] = lines

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps:
            raise ValueError(
                f"min_steps, max_steps: expected 1 ≤ min_steps ≤ max_steps, got {self.min_steps} and {self.max_steps}"
            )
        if self.max_digits < 1:
            raise ValueError(f"max_digits: expected at least 1, got {self.max_digits}")

    def __call__(self, text: str, question: str | None = None) -> Verdict:
        """Whether ``text`` is a guidance, of ``question`` where it is given."""
        steps = self.split(text)
        if not self.min_steps <= len(steps) <= self.max_steps:
            return Verdict(False, f"{len(steps)} steps, expected {self.min_steps} … {self.max_steps}")
        for step in steps:
            for pattern, what in ((_OPERATION, "an operation"), (_RESULT, "a result"), (_ANSWER, "an answer")):
                if found := pattern.search(step):
                    return Verdict(False, f"{what} is in it: {found[0]!r}")
        numbers = [number for step in steps for number in _NUMBER.findall(step)]
        if long := [number for number in numbers if len(number) > self.max_digits]:
            return Verdict(False, f"a number of more than {self.max_digits} digits: {long[0]}")
        if question is not None and (new := [n for n in numbers if n not in _NUMBER.findall(question)]):
            return Verdict(False, f"a number that the question does not have: {new[0]}")
        return Verdict(True, "")


class Guidances(NamedTuple):
    """``examples``: question → guidance, what a guide learns. ``rejected``: (question, reason)."""

    examples: list[Example]
    rejected: list[tuple[str, str]]


def guidance_examples(pairs: Iterable[tuple[str, str]], check: GuidanceCheck | None = None) -> Guidances:
    """The (question, guidance) pairs that the check accepts, as examples; the others with the reason."""
    check = check or GuidanceCheck()
    examples, rejected = [], []
    for question, guidance in pairs:
        accepted, reason = check(guidance, question)
        if accepted:
            examples.append(Example(question.encode(), guidance.encode()))
        else:
            rejected.append((question, reason))
    return Guidances(examples, rejected)
