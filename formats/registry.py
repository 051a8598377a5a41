"""Name → format. The names are those of ml_dtypes and the OCP specifications."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from narrowgauge.formats.block import BlockFormat
from narrowgauge.formats.format import Format
from narrowgauge.formats.integers import fixed_point
from narrowgauge.formats.p3109 import p3109_from_name
from narrowgauge.formats.rf8 import rf8

AnyFormat = Format | BlockFormat

_FORMATS: dict[str, AnyFormat] = {}
_ALIASES: dict[str, str] = {}


def register(fmt: AnyFormat, *aliases: str) -> AnyFormat:
    """Add a format under its name and aliases; a name taken by a different format is a ValueError."""
    for name in (fmt.name, *aliases):
        taken = _FORMATS.get(_ALIASES.get(name, name))
        if taken is not None and taken != fmt:
            raise ValueError(f"name: {name!r} is already registered for a different format")
    _FORMATS[fmt.name] = fmt
    _ALIASES.update(dict.fromkeys(aliases, fmt.name))
    return fmt


def names() -> tuple[str, ...]:
    """Registered names, in order of registration. `qM.N`, `rf8bB`, `binaryKpP[s|u][e|f]` work beside them."""
    return tuple(_FORMATS)


def get(name: str | AnyFormat) -> Any:
    """The format called `name` (a format is returned as it is). ValueError names the nearest known ones."""
    if isinstance(name, Format | BlockFormat):
        return name
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string or a format, got {type(name).__name__}")
    key = _ALIASES.get(name, name)
    if key in _FORMATS:
        return _FORMATS[key]
    by_rule = _from_pattern(name)
    if by_rule is not None:
        return by_rule
    near = get_close_matches(name.lower(), [*_FORMATS, *_ALIASES], n=3, cutoff=0.4)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(_FORMATS)}"
    raise ValueError(f"format: unknown name {name!r}; {hint}")


def _from_pattern(name: str) -> Format | None:
    if match := re.fullmatch(r"q(\d+)\.(\d+)", name):
        return fixed_point(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"rf8b(-?\d+)", name):
        return rf8(int(match[1]))
    return p3109_from_name(name)
