"""Conversations, and programs that judge them turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from narrowgauge.methods.rules.scenario import Scenario

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ACKNOWLEDGEMENT = "I will follow these rules."


class Message(NamedTuple):
    """``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    text: str


class Result(NamedTuple):
    """``reason``: the first rule that was broken, and in which reply; empty where none was."""

    passed: bool
    reason: str


def opening(scenario: Scenario, *, brief: bool = False, as_system: bool = False) -> tuple[Message, ...]:
    """How a conversation begins: the rules and a given acknowledgement, or the rules as a system message.

    ``brief`` gives the parameters alone.
    """
    text = scenario.brief if brief else scenario.instruction
    if as_system:
        return (Message(SYSTEM, text),)
    return (Message(USER, text), Message(ASSISTANT, "ok" if brief else ACKNOWLEDGEMENT))


def judge(scenario: Scenario, turns: Sequence[Message]) -> Result:
    """Whether every reply keeps every rule; ``turns`` is the conversation behind the opening.

    Each reply is judged by the message in front of it alone. Raises ``ValueError`` unless turns are a message of the
    user and a reply of the assistant, in turn, and no message is empty.
    """
    check_turns(turns)
    pairs = zip(turns[::2], turns[1::2], strict=True)
    for index, (message, reply) in enumerate(pairs):
        broken = scenario.violation(message.text, reply.text) or scenario.omission(message.text, reply.text)
        if broken is not None:
            return Result(False, f"reply {index}: {broken}")
    return Result(True, "")


def check_turns(turns: Sequence[Message]) -> None:
    """``ValueError`` for what :func:`judge` does not take."""
    if not turns or len(turns) % 2:
        raise ValueError(f"turns: expected messages and replies in pairs, at least one, got {len(turns)} turns")
    for index, turn in enumerate(turns):
        expected = (USER, ASSISTANT)[index % 2]
        if turn.role != expected:
            raise ValueError(f"turns: turn {index} is of {turn.role!r}, expected {expected!r}")
        if expected == USER and not turn.text.strip():
            raise ValueError(f"turns: turn {index}, the user's, is empty")
