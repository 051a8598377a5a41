"""Copying: random letters, then the same again: ``qwjz…`` → ``qwjz…``.

The prompt is random, so nothing is to be learned but to look back by exactly one length: the task for whatever
changes attention, which plain text hardly needs (MTraining, arXiv 2510.18830; time-to-result benchmarks).
"""

from narrowgauge.train.tasks.draws import LOWER_LETTERS, Draws
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tasks.split import Split, split_of


def copying(
    num_train: int, num_validation: int, *, seed: int, length: int = 48, alphabet: str = LOWER_LETTERS
) -> Split:
    """Prompts of ``length`` letters drawn independently, each to be written once more: ``2 · length`` + 1 tokens."""
    if length < 1:
        raise ValueError(f"length: expected at least 1, got {length}")

    def make(draws: Draws) -> Example:
        letters = draws.text(length, alphabet).encode()
        return Example(letters, letters)

    return split_of(make, num_train, num_validation, Draws(seed, f"copying:{length}:{alphabet}"))
