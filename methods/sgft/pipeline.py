"""Two models in a row: a guide that writes what to do, and a frozen solver that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from narrowgauge.train.generate import generate
from narrowgauge.train.tokens import decode, encode


class Solution(NamedTuple):
    """What the guide wrote for a question, and what the solver made of it."""

    guidance: str
    text: str


def question_then_guidance(question: str, guidance: str) -> str:
    """The solver's prompt: the question first, then the guidance, a line each."""
    return f"{question}\n{guidance}\n"


def complete(model: nn.Module, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 64) -> list[str]:
    """Greedy completions, without the end sign."""
    texts = []
    for start in range(0, len(prompts), batch_size):
        rows = [encode(prompt) for prompt in prompts[start : start + batch_size]]
        texts += [decode(row) for row in generate(model, rows, max_new_tokens=max_new_tokens)]
    return texts


@dataclass(frozen=True)
class GuidedSolver:
    """``guide`` and ``solver`` map byte tokens to logits; neither is changed.

    ``prompt(question, guidance)`` is what the solver is given; by default the question comes first. Decoding is greedy,
    with at most ``guidance_tokens`` and ``solution_tokens`` new tokens.
    """

    guide: nn.Module
    solver: nn.Module
    guidance_tokens: int
    solution_tokens: int
    prompt: Callable[[str, str], str] = question_then_guidance

    def __call__(self, questions: Sequence[str]) -> list[Solution]:
        """Guidance and solution of each question."""
        return self.solve(questions, complete(self.guide, questions, self.guidance_tokens))

    def solve(self, questions: Sequence[str], guidances: Sequence[str]) -> list[Solution]:
        """Solutions by guidances that somebody else wrote: an oracle, or another problem's."""
        prompts = [self.prompt(question, guidance) for question, guidance in zip(questions, guidances, strict=True)]
        # The solver has to be given something, also where the guide wrote nothing.
        texts = complete(self.solver, [prompt or "\n" for prompt in prompts], self.solution_tokens)
        return [Solution(*pair) for pair in zip(guidances, texts, strict=True)]
