"""Playing cases, and the table of what passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from narrowgauge.methods.rules.cases import Case
from narrowgauge.methods.rules.judge import ASSISTANT, USER, Message, Result, judge, opening
from narrowgauge.methods.rules.policies import Control, Policy

FULL_SCORE = 10.0


class Outcome(NamedTuple):
    """A case, the conversation behind its opening, and the judgement."""

    case: Case
    turns: tuple[Message, ...]
    result: Result


class Cell(NamedTuple):
    """A cell of the table."""

    scenario: str
    suite: str
    kind: str


@dataclass(frozen=True)
class Report:
    """``passed`` and ``total``: number of cases by cell."""

    passed: Mapping[Cell, int]
    total: Mapping[Cell, int]

    def rate(self, *, suite: str | None = None, kind: str | None = None, scenario: str | None = None) -> float:
        """Share of cases that passed, of those that are named; ``ValueError`` where there are none."""
        cells = [
            cell
            for cell in self.total
            if suite in (None, cell.suite) and kind in (None, cell.kind) and scenario in (None, cell.scenario)
        ]
        if not cells:
            raise ValueError(f"rate: no case has suite {suite!r}, kind {kind!r}, scenario {scenario!r}")
        return sum(self.passed[cell] for cell in cells) / sum(self.total[cell] for cell in cells)

    @property
    def score(self) -> float:
        """Mean of the rates of each suite and kind that there are, times 10."""
        groups = dict.fromkeys((cell.suite, cell.kind) for cell in self.total)
        return FULL_SCORE * fmean(self.rate(suite=suite, kind=kind) for suite, kind in groups)

    def __str__(self) -> str:
        """A line a cell, and the score."""
        lines = [f"{' '.join(cell):<44}{self.passed[cell]:>5} of {self.total[cell]}" for cell in self.total]
        return "\n".join([*lines, f"score {self.score:.2f}"])


def play(cases: Sequence[Case], policy: Policy, *, brief: bool = False, as_system: bool = False) -> list[Outcome]:
    """The policy's replies to every turn of every case, judged. All cases move on together, a turn at a time.

    ``brief``, ``as_system``: how the conversations begin (:func:`opening`), which is not judged.
    """
    openings = [opening(case.scenario, brief=brief, as_system=as_system) for case in cases]
    turns: list[list[Message]] = [[] for _ in cases]
    for index in range(max((len(case.turns) for case in cases), default=0)):
        active = [number for number, case in enumerate(cases) if index < len(case.turns)]
        for number in active:
            turns[number].append(Message(USER, cases[number].turns[index]))
        replies = policy([[*openings[number], *turns[number]] for number in active])
        for number, reply in zip(active, replies, strict=True):
            turns[number].append(Message(ASSISTANT, reply))
    return _judged(cases, turns)


def play_control(cases: Sequence[Case], control: Control) -> list[Outcome]:
    """The same with a control (``oracle``, ``echo`` …), which may know each scenario."""
    turns = [
        [
            turn
            for text in case.turns
            for turn in (Message(USER, text), Message(ASSISTANT, control(case.scenario, text)))
        ]
        for case in cases
    ]
    return _judged(cases, turns)


def _judged(cases: Sequence[Case], turns: Sequence[Sequence[Message]]) -> list[Outcome]:
    return [Outcome(case, tuple(said), judge(case.scenario, said)) for case, said in zip(cases, turns, strict=True)]


def report(outcomes: Sequence[Outcome]) -> Report:
    """The table. Raises ``ValueError`` for no outcomes."""
    if not outcomes:
        raise ValueError("outcomes: expected at least one, got none")
    passed: dict[Cell, int] = {}
    total: dict[Cell, int] = {}
    for case, _, result in outcomes:
        cell = Cell(type(case.scenario).__name__, case.suite, case.kind)
        passed[cell] = passed.get(cell, 0) + result.passed
        total[cell] = total.get(cell, 0) + 1
    return Report(passed, total)


def evaluate(policy: Policy, cases: Sequence[Case], *, brief: bool = False, as_system: bool = False) -> Report:
    """:func:`play`, then :func:`report`."""
    return report(play(cases, policy, brief=brief, as_system=as_system))
