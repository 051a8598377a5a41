"""Comments of the standard library, some of them dirtied with the mark ``!x``.

Stands for text with something unwanted in it: an example's prompt is the clean first part of a text of comments, its
answer the next bytes, in which marks stand at random places. Whether there are any depends on the prompt (more often
when it has the word *the*), so a model that imitates the text learns when to write them. The task for methods that
train on judged or rewritten continuations (Self-Improving Pretraining, arXiv 2601.21343).
"""

import re

from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.tasks.source import Example
from narrowgauge.train.tasks.split import Split, split_of
from narrowgauge.train.text_files import standard_library_files

MARK = b"!x"
_COMMENT = re.compile(r"\s*# +([A-Za-z].*)")
_TRIGGER = re.compile(rb"\bthe\b", re.IGNORECASE)


def comment_text(max_bytes: int = 400_000) -> bytes:
    """The first comments of the standard library, ASCII, one a line without ``#``, at most ``max_bytes`` bytes."""
    found: list[bytes] = []
    size = 0
    for file in standard_library_files():
        for line in file.path.read_text(encoding="utf-8", errors="replace").splitlines():
            if (match := _COMMENT.fullmatch(line)) and match[1].isascii() and MARK.decode() not in match[1]:
                text = match[1].strip().encode() + b"\n"
                if size + len(text) > max_bytes:
                    return b"".join(found)
                found.append(text)
                size += len(text)
    return b"".join(found)


def has_mark(text: bytes) -> bool:
    """Whether a mark is in the text."""
    return MARK in text


def without_marks(text: bytes) -> bytes:
    """The text with all marks taken out: the rewriter, which needs no model here."""
    while MARK in text:  # taking one out may join the halves of another
        text = text.replace(MARK, b"")
    return text


def with_marks(text: bytes, draws: Draws, *, marks: int) -> bytes:
    """The text with ``marks`` marks put in at random places."""
    for _ in range(marks):
        place = draws.below(len(text) + 1)
        text = text[:place] + MARK + text[place:]
    return text


def marked_comments(
    num_train: int,
    num_validation: int,
    *,
    seed: int,
    prompt_bytes: int = 32,
    answer_bytes: int = 24,
    rates: tuple[float, float] = (0.15, 0.6),
) -> Split:
    """Windows of :func:`comment_text` as examples; answers are cut to ``answer_bytes``, marks included.

    An answer gets one or two marks with probability ``rates[1]`` where the prompt has the word *the*, else
    ``rates[0]``: about three in ten. Training and validation are drawn from the first 90 % of the text and from
    the rest, so that no window overlaps one of the other part.
    """
    if prompt_bytes < 1 or answer_bytes < 2 * len(MARK):
        raise ValueError(
            f"prompt_bytes, answer_bytes: expected at least 1 and {2 * len(MARK)}, got {prompt_bytes}, {answer_bytes}"
        )
    if not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(f"rates: expected two numbers 0 … 1, got {rates}")
    text = comment_text()
    cut = len(text) * 9 // 10

    def windows(part: bytes, count: int, draws: Draws) -> list[Example]:
        def make(draws: Draws) -> Example:
            start = draws.below(len(part) - prompt_bytes - answer_bytes + 1)
            prompt = part[start : start + prompt_bytes]
            answer = part[start + prompt_bytes : start + prompt_bytes + answer_bytes]
            if draws.chance(rates[1] if _TRIGGER.search(prompt) else rates[0]):
                answer = with_marks(answer, draws, marks=draws.between(1, 2))[:answer_bytes]
            return Example(prompt, answer)

        return split_of(make, count, 1, draws).train

    return Split(
        windows(text[:cut], num_train, Draws(seed, "marked comments:train")),
        windows(text[cut:], num_validation, Draws(seed, "marked comments:validation")),
    )
