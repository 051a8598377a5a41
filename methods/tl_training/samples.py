"""Masking of adverse effects: which turns of a conversation with tools are learned, each as a sample of its own.

An assistant turn is learned if the tool's answer behind it tells of no error, or if nothing stands behind it. One that
somebody else answers in the middle of the conversation is no call, and is not learned. A sample's context is everything
before its turn, failed calls and their errors included; its loss is on the turn alone.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from narrowgauge.train.tasks.tool_calls import ASSISTANT, TOOL, Turn, call_prompt

ERROR_PHRASES = (
    "is not defined",
    "not found",
    "unexpected keyword",
    "missing argument",
    "missing required",
    "invalid syntax",
    "invalid argument",
    "connection error",
    "timed out",
    "is not supported",
    "is not a list",
    "is not a str",
)
"""What the answers of failed calls say; a program that knows its tools passes a predicate of its own instead."""


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()


_BARE_PHRASES = tuple(map(_bare, ERROR_PHRASES))


def looks_like_error(answer: str) -> bool:
    """Whether a tool's answer holds one of :data:`ERROR_PHRASES`; case, spaces and punctuation do not matter.

    A search result that happens to say "is not supported" counts as an error too.
    """
    bare = _bare(answer)
    return any(phrase in bare for phrase in _BARE_PHRASES)


@dataclass(frozen=True, slots=True)
class Sample:
    """``prompt``: the conversation up to the sign of the assistant's turn; ``reply``: the turn, with its line end."""

    prompt: bytes
    reply: bytes


def samples(
    turns: Sequence[Turn], *, is_error: Callable[[str], bool] = looks_like_error, mask_errors: bool = True
) -> list[Sample]:
    """A sample for each turn that is learned, in order.

    ``is_error(answer)`` judges what a tool says. ``mask_errors=False`` learns failed calls as well, the control.
    """
    found = []
    for index, turn in enumerate(turns):
        if turn.role != ASSISTANT:
            continue
        following = turns[index + 1] if index + 1 < len(turns) else None
        if following is not None and (following.role != TOOL or (mask_errors and is_error(following.text))):
            continue
        found.append(Sample(call_prompt(turns[:index]), f"{turn.text}\n".encode()))
    return found
