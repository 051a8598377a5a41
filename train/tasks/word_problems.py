"""Word problems modulo 10 that need to be understood before they are computed: ``7, B plus 3, A twice?`` → ``7``.

The clauses come in random order, their letters give the order to carry them out: here ``A`` doubles 7 to 4 (mod 10),
then ``B`` adds 3. Four things can be asked of the same problem:

| | prompt | answer |
|---|---|---|
| directly | ``7, B plus 3, A twice?`` | ``#7`` |
| chain of thought | ``7, B plus 3, A twice?`` | ``7d=4;4p3=7;#7`` |
| plan (solution guidance) | ``7, B plus 3, A twice?`` | ``7|dp3>`` |
| carrying out | ``7|dp3>`` | ``7d=4;4p3=7;#7`` |

A plan has the operations in order and nothing computed. The task for methods that split understanding from computing
(Solution Guidance Fine-Tuning, arXiv 2412.09906).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from narrowgauge.train.tasks.answers import RESULT
from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tasks.split import distinct


class Operation(NamedTuple):
    """One step: ``kind`` is a key of :data:`KINDS`, ``operand`` 1 … 9, or ``None`` where the kind has none."""

    kind: str
    operand: int | None


KINDS: Mapping[str, tuple[str, bool, Callable[[int, int], int]]] = MappingProxyType(
    {
        "p": ("plus", True, lambda value, operand: value + operand),
        "m": ("minus", True, lambda value, operand: value - operand),
        "d": ("twice", False, lambda value, _: 2 * value),
        "t": ("thrice", False, lambda value, _: 3 * value),
    }
)
"""Letter in a plan → word in a question, whether there is an operand, and what is done (then modulo 10)."""


def _code(operation: Operation) -> str:
    return operation.kind + ("" if operation.operand is None else str(operation.operand))


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A first value 0 … 9, operations in the order of execution, and the order in which the question names them."""

    start: int
    operations: tuple[Operation, ...]
    told: tuple[int, ...]

    @property
    def question(self) -> bytes:
        """``7, B plus 3, A twice?``."""
        clauses = [str(self.start)]
        for index in self.told:
            kind, operand = self.operations[index]
            clauses.append(f"{chr(ord('A') + index)} {KINDS[kind][0]}" + ("" if operand is None else f" {operand}"))
        return (", ".join(clauses) + "?").encode()

    @property
    def plan(self) -> bytes:
        """``7|dp3>``: what to do, in order, with nothing computed."""
        return f"{self.start}|{''.join(map(_code, self.operations))}>".encode()

    @property
    def work(self) -> bytes:
        """``7d=4;4p3=7;#7``: the plan carried out."""
        value, steps = self.start, ""
        for operation in self.operations:
            result = KINDS[operation.kind][2](value, operation.operand or 0) % 10
            steps += f"{value}{_code(operation)}={result};"
            value = result
        return steps.encode() + RESULT + str(value).encode()

    @property
    def result(self) -> bytes:
        """``#7``."""
        return self.work[-2:]

    def direct(self) -> Example:
        """Question → result."""
        return Example(self.question, self.result)

    def chain_of_thought(self) -> Example:
        """Question → work."""
        return Example(self.question, self.work)

    def guidance(self) -> Example:
        """Question → plan, what a guide learns."""
        return Example(self.question, self.plan)

    def execution(self) -> Example:
        """Plan → work, what a solver learns."""
        return Example(self.plan, self.work)


def word_problems(count: int, *, seed: int, min_operations: int = 2, max_operations: int = 3) -> list[WordProblem]:
    """``count`` problems with different questions; the number of operations, their kinds and order are uniform.

    Cut the list into parts for guide, solver and test: any two have different questions, though two may have the
    same plan told in another order.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if not 1 <= min_operations <= max_operations <= 26:
        raise ValueError(
            "min_operations, max_operations: expected 1 … 26 and the first not above the second,"
            f" got {min_operations} and {max_operations}"
        )

    def make(draws: Draws) -> WordProblem:
        operations = []
        for _ in range(draws.between(min_operations, max_operations)):
            kind = draws.choice(list(KINDS))
            operations.append(Operation(kind, draws.between(1, 9) if KINDS[kind][1] else None))
        told = tuple(draws.shuffled(range(len(operations))))
        return WordProblem(draws.below(10), tuple(operations), told)

    draws = Draws(seed, f"word problems:{min_operations}:{max_operations}")
    return distinct(make, lambda problem: problem.question, count, draws)
