"""Translation by a cipher: ``ab cde>`` → ``rs tuv``, where the letters a … e become r … v.

Each letter becomes another one, by a table that ``language`` fixes. The letters are a table to be learned, their order
needs attention to the source: the smallest task on which an encoder-decoder and a decoder alone can be compared. With
``reverse`` the words come in reverse order (``tuv rs``), which is much harder: where to read depends on their lengths.
"""

from narrowgauge.train.tasks.draws import LOWER_LETTERS, Draws
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tasks.split import Split, split_of


def cipher_table(language: int) -> dict[str, str]:
    """Which letter each letter becomes: a permutation of the alphabet, drawn from ``language``."""
    return dict(zip(LOWER_LETTERS, Draws(language, "cipher table").shuffled(LOWER_LETTERS), strict=True))


def translate(sentence: str, language: int = 0, *, reverse: bool = False) -> str:
    """The sentence in the other language: each letter by the table, with ``reverse`` the last word first."""
    table = cipher_table(language)
    words = ["".join(table[letter] for letter in word) for word in sentence.split(" ")]
    return " ".join(reversed(words) if reverse else words)


def cipher(
    num_train: int,
    num_validation: int,
    *,
    seed: int,
    language: int = 0,
    reverse: bool = False,
    max_words: int = 4,
    max_word_length: int = 4,
) -> Split:
    """Sentences of 2 … ``max_words`` words of 1 … ``max_word_length`` random letters and their translation.

    The prompt ends with ``>``. A prompt has at most ``max_words · (max_word_length + 1)`` bytes, the answer one fewer.
    """
    if max_words < 2 or max_word_length < 1:
        raise ValueError(
            f"max_words, max_word_length: expected at least 2 and 1, got {max_words} and {max_word_length}"
        )

    def make(draws: Draws) -> Example:
        words = [draws.text(draws.between(1, max_word_length)) for _ in range(draws.between(2, max_words))]
        sentence = " ".join(words)
        return Example(f"{sentence}>".encode(), translate(sentence, language, reverse=reverse).encode())

    draws = Draws(seed, f"cipher:{language}:{max_words}:{max_word_length}")
    return split_of(make, num_train, num_validation, draws)
