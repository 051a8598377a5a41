"""The token numbers that every byte-level task and model shares: 256 bytes and four signs."""

from collections.abc import Iterable

PAD, MASK, BOS, EOS = 256, 257, 258, 259
VOCAB_SIZE = 260
"""Tokens 0 … 255 are bytes; then padding, the mask of denoising models, begin and end of a sequence."""


def encode(text: str | bytes) -> list[int]:
    """One token a byte, text as UTF-8; no sign is added."""
    return list(text.encode() if isinstance(text, str) else text)


def decode(ids: Iterable[int]) -> str:
    """The bytes among the tokens as UTF-8 text: signs (256 and above) are dropped, broken UTF-8 is replaced.

    ``ids`` may hold whatever converts to ``int`` (a 1-D tensor too). Raises ``ValueError`` for a negative number.
    """
    return bytes(number for number in map(int, ids) if number < PAD).decode(errors="replace")
