"""The methods of a run, from their names and settings."""

from __future__ import annotations

import dataclasses
import json
import re
from difflib import get_close_matches
from typing import Any

import narrowgauge.methods  # noqa: F401 - importing it fills the register of methods
from narrowgauge.nn import Recipe
from narrowgauge.train import OnGrid, get_method
from narrowgauge.train.method import Method

BETWEEN_SETTINGS = re.compile(r',(?![^\[]*\])(?=(?:[^"]*"[^"]*")*[^"]*$)')
"""A comma that is not inside a list or a text."""


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of `NAME:key=value,…`; values are read as JSON (0.99, true, [1, 2]), else as text."""
    name, _, rest = text.partition(":")
    settings = {}
    for item in BETWEEN_SETTINGS.split(rest) if rest else []:
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"method: expected NAME:key=value,key=value, got {text!r}")
        settings[key.strip()] = _value(value.strip())
    return name.strip(), settings


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return tuple(value) if isinstance(value, list) else value


def make_method(text: str) -> Method:
    """The method of `NAME:key=value,…`; ValueError for unknown names and for settings that it does not have."""
    name, settings = parse_method(text)
    cls = get_method(name)
    if dataclasses.is_dataclass(cls):
        known = [field.name for field in dataclasses.fields(cls) if field.init]
        for key in settings:
            if key not in known:
                near = get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"method: {name} has no setting {key!r}; {hint}it has {', '.join(known) or 'none'}")
    try:
        return cls(**settings)
    except TypeError as error:
        raise ValueError(f"method: {name} does not take these settings: {settings} ({error})") from error


def on_grid(recipe: Recipe, seed: int) -> list[Method]:
    """What keeps the weights of a recipe without a float master on their grid."""
    return [] if recipe.update is None else [OnGrid(seed=seed)]
