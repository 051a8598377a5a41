"""Sentences from templates, a narrow domain to go on training with: ``the sum of 17 and 5 is 22.``

| template | example |
|---|---|
| sum | ``the sum of 17 and 5 is 22.`` |
| dose | ``a dose of 6 mg for 3 days makes 18 mg.`` |

Far from source code and of low entropy: what a model learns here costs it what it knew, the task for methods against
forgetting (MIGU, arXiv 2406.17245).
"""

import numpy as np

from narrowgauge.train.corpus import Corpus
from narrowgauge.train.tasks.draws import Draws


def sentence(draws: Draws) -> str:
    """One sentence of either template."""
    if draws.chance(0.5):
        left, right = draws.below(50), draws.below(50)
        return f"the sum of {left} and {right} is {left + right}."
    milligrams, days = draws.between(1, 9), draws.between(2, 9)
    return f"a dose of {milligrams} mg for {days} days makes {milligrams * days} mg."


def sentence_corpus(count: int, *, seed: int) -> Corpus:
    """``count`` sentences, one a line, uint8; the last tenth is the held-out part (at least one sentence)."""
    if count < 2:
        raise ValueError(f"count: expected at least 2, got {count}")
    draws = Draws(seed, "sentences")
    lines = [f"{sentence(draws)}\n" for _ in range(count)]
    cut = count - max(1, count // 10)
    parts = (np.frombuffer("".join(part).encode(), dtype=np.uint8) for part in (lines[:cut], lines[cut:]))
    return Corpus("template sentences", *parts)
