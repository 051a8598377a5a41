"""Prompt templates with one slot for a label word, and the label words themselves.

A single text is written ``text + before + word + after`` (``"… It was great."``), a pair
``first + before + word + after + second`` (``"… ? Yes, …"``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """What is classified: one text, or a pair where ``second`` is not empty."""

    first: bytes
    second: bytes = b""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A template, its label words and the longest row in bytes: the same in every phase, to the byte.

    ``words[c]`` stands for class ``c``. They are different and equally long, so that their probabilities can be
    compared. A row is never longer than ``max_length``: texts are cut at their ends, the longer of a pair first, the
    template and the word never. Raises ``ValueError`` for words or a length that do not fit.
    """

    words: tuple[bytes, ...]
    before: bytes = b" It was "
    after: bytes = b"."
    max_length: int = 64

    def __post_init__(self) -> None:
        if len(self.words) < 2 or len(set(self.words)) < len(self.words):
            raise ValueError(f"words: expected two different words or more, got {self.words!r}")
        if len({len(word) for word in self.words}) > 1 or not self.words[0]:
            raise ValueError(f"words: expected words of the same number of bytes, at least 1, got {self.words!r}")
        if not self.before:
            raise ValueError("before: expected at least one byte between the text and the word, got none")
        if self.room < 1:
            needed = self.max_length - self.room
            raise ValueError(
                f"max_length: template and word take {needed} bytes, expected more than that, got {self.max_length}"
            )

    @property
    def room(self) -> int:
        """Bytes that are left for the text or the pair."""
        return self.max_length - len(self.before) - len(self.words[0]) - len(self.after)

    def cut(self, text: Text) -> Text:
        """As much of the text as there is room for."""
        longer, shorter = max(text.first, text.second, key=len), min(text.first, text.second, key=len)
        # The longer one gives way until both are equally long, then both do.
        kept_shorter = min(len(shorter), self.room // 2)
        kept_longer = min(len(longer), self.room - kept_shorter)
        first_is_longer = len(text.first) >= len(text.second)
        first, second = (kept_longer, kept_shorter) if first_is_longer else (kept_shorter, kept_longer)
        return Text(text.first[:first], text.second[:second])

    def fill(self, text: Text, label: int) -> bytes:
        """The row for a text with the word of class ``label``; ``ValueError`` for an unknown class."""
        self.check_label(label)
        kept = self.cut(text)
        return kept.first + self.before + self.words[label] + self.after + kept.second

    def slot(self, text: Text) -> int:
        """Where the word begins in a filled row."""
        return len(self.cut(text).first) + len(self.before)

    def parse(self, row: bytes, *, pair: bool = False) -> tuple[Text, int]:
        """Inverse of :meth:`fill`: the text as it was cut, and the class.

        Raises ``ValueError`` for a row that was not filled from this template, and for a pair whose texts contain the
        template, which cannot be taken apart.
        """
        found = []
        for label, word in enumerate(self.words):
            middle = self.before + word + self.after
            starts = range(len(row)) if pair else [len(row) - len(middle)]
            found += [
                (Text(row[:start], row[start + len(middle) :]), label)
                for start in starts
                if start >= 0 and row.startswith(middle, start)
            ]
        if len(found) != 1:
            raise ValueError(f"row: expected the template once, it is {len(found)} times in {row!r}")
        return found[0]

    def check_label(self, label: int) -> None:
        """Raise ``ValueError`` for a class that has no word."""
        if not 0 <= label < len(self.words):
            raise ValueError(f"label: expected 0 … {len(self.words) - 1}, got {label}")
