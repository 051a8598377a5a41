"""A registry of eight tools whose names share prefixes, and calls such as ``list_max(a=[3,9,4])``.

Calls are text: they are parsed and carried out here, so that errors are real. The registry's names share the
prefixes ``list_``, ``list_m`` and ``str_``, which is what makes the first letters of a name easy and those where names
part hard (TL-Training, arXiv 2412.15495).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

_CALL = re.compile(r"(\w+)\((?:(\w+)=(\[\d(?:,\d)*\]|'[a-z]*'))?\)")


@dataclass(frozen=True, slots=True)
class Tool:
    """``ask`` is how a request names it, ``takes`` the kind of its one parameter ``a``: ``list`` or ``str``."""

    name: str
    ask: str
    takes: str
    run: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it was written; ``parameter`` and ``value`` are empty where there is none."""

    name: str
    parameter: str
    value: str


def _numbers(value: str) -> list[int]:
    return [int(number) for number in value[1:-1].split(",")]


def _letters(value: str) -> str:
    return value[1:-1]


def _registry(*tools: Tool) -> Mapping[str, Tool]:
    return MappingProxyType({tool.name: tool for tool in tools})


TOOLS: Mapping[str, Tool] = _registry(
    Tool("list_max", "max", "list", lambda value: str(max(_numbers(value)))),
    Tool("list_min", "min", "list", lambda value: str(min(_numbers(value)))),
    Tool("list_mean", "mean", "list", lambda value: f"{sum(_numbers(value)) / len(_numbers(value)):.1f}"),
    Tool("list_sum", "sum", "list", lambda value: str(sum(_numbers(value)))),
    Tool("list_len", "size", "list", lambda value: str(len(_numbers(value)))),
    Tool("str_len", "length", "str", lambda value: str(len(_letters(value)))),
    Tool("str_upper", "capitals", "str", lambda value: _letters(value).upper()),
    Tool("str_last", "last", "str", lambda value: _letters(value)[-1:]),
)
"""Name → tool."""

PARAMETER = "a"
ERROR = "error:"
"""How the answer to a call that fails begins."""


def parse_call(text: str) -> Call | None:
    """The call that the whole text is, or ``None`` where it is not one."""
    match = _CALL.fullmatch(text)
    return None if match is None else Call(*(group or "" for group in match.groups()))


def run_call(text: str) -> str:
    """What the tool answers, or ``error: …`` that says what is wrong with the call."""
    call = parse_call(text)
    if call is None:
        return f"{ERROR} invalid syntax"
    if call.name not in TOOLS:
        return f"{ERROR} {call.name} is not defined"
    tool = TOOLS[call.name]
    if call.parameter not in ("", PARAMETER):
        return f"{ERROR} unexpected keyword {call.parameter}"
    if not call.parameter:
        return f"{ERROR} missing argument {PARAMETER}"
    if call.value.startswith("[") != (tool.takes == "list"):
        return f"{ERROR} {PARAMETER} is not a {tool.takes}"
    return tool.run(call.value)


def is_error(reply: str) -> bool:
    """Whether a tool's answer tells of a failed call."""
    return reply.startswith(ERROR)
