"""Key tokens of a call: where its name is decided, and where its values end.

For a reply such as ``list_max(a=[3,9,4])``, by bytes (a token each):

``PRE``
    the first byte of the name; and for each other tool whose name begins with the same bytes, the byte at which the two
    names part. Where the right name is the beginning of the other one, that is the parenthesis behind it.
``PARA``
    the last byte of each parameter's value, in front of the comma or parenthesis that ends it.
``OTHER``
    everything else, and all of a reply that is no call.
"""

import re
from collections.abc import Collection, Iterator, Sequence

IGNORED, PRE, PARA, OTHER = 0, 1, 2, 3
"""Classes of tokens; ``IGNORED`` ones are not learned."""

_NAME = re.compile(r"[^\W\d]\w*(?=\()")
_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""


def name_positions(name: str, tools: Collection[str], max_positions: int | None = None) -> list[int]:
    """The ``PRE`` positions within a reply that begins with ``name``, in order.

    ``tools``: all names, ``name`` among them or not. ``max_positions`` keeps the first ones only.
    """
    shared = {_num_shared(name, other) for other in tools if other != name}
    return sorted({0} | shared)[:max_positions]


def _num_shared(first: str, second: str) -> int:
    """Length of the beginning that two names have in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def value_ends(call: str) -> list[int]:
    """The positions of the last letter of each parameter's value, in order; ``call`` begins with ``name(``."""
    return [end for start, end in _parameters(call) if end > start]


def _parameters(call: str) -> Iterator[tuple[int, int]]:
    """(position of the delimiter in front, position of the last letter before the delimiter behind)."""
    depth, quote, start, last = 0, "", call.index("("), call.index("(")
    for index in range(start, len(call)):
        letter = call[index]
        if quote:
            quote = "" if letter == quote and call[index - 1] != "\\" else quote
        elif letter in _QUOTES:
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        if not quote and (depth == 0 or (depth == 1 and letter == ",")):
            yield start, last
            start = index
            if depth == 0:
                return
        if not letter.isspace():
            last = index


def classes(reply: bytes, tools: Collection[str], max_pre: int | None = None) -> list[int]:
    """The class of each byte of ``reply``; where a byte is both, it is ``PRE``.

    Raises ``ValueError`` for ``max_pre`` below 1.
    """
    if max_pre is not None and max_pre < 1:
        raise ValueError(f"max_pre: expected None or at least 1, got {max_pre}")
    found = [OTHER] * len(reply)
    text = reply.decode("latin-1")  # a letter a byte, so that positions are those of bytes
    if (name := _NAME.match(text)) is None:
        return found
    _mark(found, value_ends(text), PARA)
    names = [tool.encode().decode("latin-1") for tool in tools]
    _mark(found, name_positions(name[0], names, max_pre), PRE)
    return found


def _mark(found: list[int], positions: Sequence[int], kind: int) -> None:
    for position in positions:
        found[position] = kind
