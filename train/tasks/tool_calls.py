"""Conversations with tools, some of them with a call that fails and is repaired.

    U:get max of 3 9 4
    A:list_mox(a=[3,9,4])
    T:error: list_mox is not defined
    A:list_max(a=[3,9,4])
    T:9

A failed call is what imitation must not learn and what still has to stand in the context (TL-Training, arXiv
2412.15495). The tools and what is an error are those of :mod:`narrowgauge.train.tasks.tools`; requests and values are
random.
"""

from collections.abc import Sequence
from typing import NamedTuple

from narrowgauge.train.tasks.draws import LOWER_LETTERS, Draws
from narrowgauge.train.tasks.tools import PARAMETER, TOOLS, Tool, is_error, run_call
from narrowgauge.train.tokens import encode

USER, ASSISTANT, TOOL = "user", "assistant", "tool"
_SIGNS = {USER: "U:", ASSISTANT: "A:", TOOL: "T:"}
TURN_END = ord("\n")
"""The token that ends every turn: what generation of a call stops at."""


class Turn(NamedTuple):
    """Who says what: ``role`` is ``user``, ``assistant`` or ``tool``; ``text`` has no line break."""

    role: str
    text: str


Conversation = tuple[Turn, ...]


def render(turns: Sequence[Turn]) -> str:
    """The conversation as text, one line a turn."""
    return "".join(f"{_SIGNS[turn.role]}{turn.text}\n" for turn in turns)


def call_prompt(turns: Sequence[Turn]) -> bytes:
    """The conversation so far and the sign that it is the assistant's turn."""
    return (render(turns) + _SIGNS[ASSISTANT]).encode()


def conversation_tokens(turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
    """The tokens of :func:`render`, and for each the index of the turn it is the text (or end) of.

    It is -1 for the signs ``U:``, ``A:``, ``T:``, which belong to no turn: nobody writes them.
    """
    tokens: list[int] = []
    owners: list[int] = []
    for index, turn in enumerate(turns):
        sign, text = encode(_SIGNS[turn.role]), [*encode(turn.text), TURN_END]
        tokens += [*sign, *text]
        owners += [-1] * len(sign) + [index] * len(text)
    return tokens, owners


def _request(tool: Tool, draws: Draws) -> tuple[str, str]:
    """What the user says, and the value of the parameter."""
    if tool.takes == "list":
        numbers = [str(draws.below(10)) for _ in range(draws.between(2, 4))]
        return f"get {tool.ask} of {' '.join(numbers)}", f"[{','.join(numbers)}]"
    letters = draws.text(draws.between(2, 4))
    return f"get {tool.ask} of {letters}", f"'{letters}'"


def _wrong_call(tool: Tool, value: str, draws: Draws) -> str:
    """A call that fails: a name with one wrong letter, another parameter, or none."""
    kind = draws.below(3)
    if kind == 0:
        place = draws.between(tool.name.index("_") + 1, len(tool.name) - 1)
        name = tool.name
        while name in TOOLS:
            name = tool.name[:place] + draws.choice(LOWER_LETTERS) + tool.name[place + 1 :]
        return f"{name}({PARAMETER}={value})"
    return f"{tool.name}({draws.choice('bcx')}={value})" if kind == 1 else f"{tool.name}()"


def conversation(draws: Draws, *, requests: int, error_rate: float) -> Conversation:
    """One conversation of some requests, each answered at the first or, after an error, at the second call."""
    turns: list[Turn] = []
    for _ in range(requests):
        tool = draws.choice(list(TOOLS.values()))
        request, value = _request(tool, draws)
        turns.append(Turn(USER, request))
        right = f"{tool.name}({PARAMETER}={value})"
        calls = [_wrong_call(tool, value, draws), right] if draws.chance(error_rate) else [right]
        for call in calls:
            turns += [Turn(ASSISTANT, call), Turn(TOOL, run_call(call))]
    return tuple(turns)


def conversations(count: int, *, seed: int, error_rate: float = 0.4, requests: int = 1) -> list[Conversation]:
    """``count`` conversations of ``requests`` requests; each request fails first with probability ``error_rate``.

    With one request a conversation has at most 112 tokens.
    """
    if count < 1 or requests < 1:
        raise ValueError(f"count, requests: expected at least 1, got {count} and {requests}")
    if not 0 <= error_rate <= 1:
        raise ValueError(f"error_rate: expected 0 … 1, got {error_rate}")
    draws = Draws(seed, f"tool calls:{error_rate}:{requests}")
    return [conversation(draws, requests=requests, error_rate=error_rate) for _ in range(count)]


def has_error(turns: Sequence[Turn]) -> bool:
    """Whether a tool answered with an error."""
    return any(turn.role == TOOL and is_error(turn.text) for turn in turns)
