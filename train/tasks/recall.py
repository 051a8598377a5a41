"""Key-value recall: ``a3f7k2?f`` → ``7``.

Pairs of a letter and a digit, all letters different, then one of the letters: its digit is asked for. What has to
be learned is to find a token by what it is and to read the one behind it; a model that cannot guesses one of the
digits. It takes long to begin: a Llama 64 wide with two layers still guesses among four pairs after 1000 steps of 32.
"""

from narrowgauge.train.tasks.draws import LOWER_LETTERS, Draws
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tasks.split import Split, split_of


def recall(num_train: int, num_validation: int, *, seed: int, num_pairs: int = 6) -> Split:
    """Lists of ``num_pairs`` pairs (1 … 26) and a question; ``2 · num_pairs + 2`` bytes, and one to answer."""
    if not 1 <= num_pairs <= len(LOWER_LETTERS):
        raise ValueError(f"num_pairs: expected 1 … {len(LOWER_LETTERS)}, got {num_pairs}")

    def make(draws: Draws) -> Example:
        values = {key: draws.below(10) for key in draws.distinct(LOWER_LETTERS, num_pairs)}
        asked = draws.choice(list(values))
        pairs = "".join(f"{key}{value}" for key, value in values.items())
        return Example(f"{pairs}?{asked}".encode(), str(values[asked]).encode())

    return split_of(make, num_train, num_validation, Draws(seed, f"recall:{num_pairs}"))
