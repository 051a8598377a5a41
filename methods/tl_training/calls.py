"""Calls as text, in Python's syntax: a name and named parameters."""

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """``values``: parameter → its value in a normal form, the same whatever the quotes and spaces were."""

    name: str
    values: Mapping[str, str]


def parse(text: str) -> ParsedCall | None:
    """The call that ``text`` is, up to white space around it; ``None`` where it is not one.

    Parameters have to be named, each once, and values are literals.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a model writes may hold "\\d", which Python warns of
            node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        return None
    values: dict[str, str] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in values or not _is_literal(keyword.value):
            return None
        values[keyword.arg] = ast.dump(keyword.value)
    return ParsedCall(node.func.id, values)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True
