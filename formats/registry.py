"""Name → format. The names are those of ml_dtypes and the OCP specifications."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from narrowgauge.formats.block import BlockFormat
from narrowgauge.formats.format import Format

AnyFormat = Format | BlockFormat


@dataclass(frozen=True)
class Family:
    """Formats named by a rule. example: such a name, for tables; meaning: what its parts are, in a few words."""

    pattern: re.Pattern[str]
    make: Callable[[re.Match[str]], AnyFormat]
    example: str
    meaning: str


_FORMATS: dict[str, AnyFormat] = {}
_ALIASES: dict[str, str] = {}
_USED: dict[str, AnyFormat] = {}
_MADE: dict[str, AnyFormat] = {}
_FAMILIES: list[Family] = []


def register(fmt: AnyFormat, *aliases: str) -> AnyFormat:
    """Add a format under its name and aliases; a name taken by a different format is a ValueError."""
    for name in (fmt.name, *aliases):
        taken = _FORMATS.get(_ALIASES.get(name, name))
        if taken is not None and taken != fmt:
            raise ValueError(f"name: {name!r} is already registered for a different format")
    _FORMATS[fmt.name] = fmt
    _ALIASES.update(dict.fromkeys(aliases, fmt.name))
    return fmt


def register_family(pattern: str, make: Callable[[re.Match[str]], AnyFormat], example: str, meaning: str) -> None:
    """Formats named by rule: `make` is given the match of a name that `pattern` matches in full. It raises ValueError
    for parameters that the family does not have."""
    _FAMILIES.append(Family(re.compile(pattern), make, example, meaning))


def families() -> tuple[Family, ...]:
    """The rules by which further formats are named."""
    return tuple(_FAMILIES)


def names() -> tuple[str, ...]:
    """Registered names, in order of registration. The names that `families` rule work beside them."""
    return tuple(_FORMATS)


def intern(fmt: AnyFormat) -> None:
    """Makes the name of a format that a scheme uses mean that format, so that the scheme's text can be read back.

    ValueError where the name already means another format: text would be ambiguous.
    """
    taken = _lookup(fmt.name)
    if taken is None:
        _USED[fmt.name] = fmt
    elif taken != fmt:
        raise ValueError(
            f"name: {fmt.name!r} already means a different format; give this one another name "
            "(dataclasses.replace(fmt, name=...))"
        )


def _lookup(name: str) -> AnyFormat | None:
    key = _ALIASES.get(name, name)
    return _FORMATS.get(key) or _USED.get(key) or _from_family(name)


def get(name: str | AnyFormat) -> Any:
    """The format called `name` (a format is returned as it is). ValueError names the nearest known ones."""
    if isinstance(name, Format | BlockFormat):
        return name
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string or a format, got {type(name).__name__}")
    found = _lookup(name)
    if found is not None:
        return found
    near = get_close_matches(name.lower(), [*_FORMATS, *_ALIASES, *_USED], n=3, cutoff=0.4)
    some = ", ".join(list(_FORMATS)[:8])
    hint = f"nearest: {', '.join(near)}" if near else f"known: {some}, … (`narrowgauge formats` lists them all)"
    raise ValueError(f"format: unknown name {name!r}; {hint}")


def _from_family(name: str) -> AnyFormat | None:
    if name not in _MADE:
        for family in _FAMILIES:
            if match := family.pattern.fullmatch(name):
                _MADE[name] = family.make(match)
                break
    return _MADE.get(name)
