"""The settings of a run as TOML, which `narrowgauge train` reads again."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from narrowgauge.commands.train_settings import TrainConfig


def to_toml(config: TrainConfig) -> str:
    """Every setting that is not None; tables come last, empty ones are left out."""
    settings = dataclasses.asdict(config)
    tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
    lines = _lines({name: value for name, value in settings.items() if name not in tables})
    for name, table in tables.items():
        if inner := _lines(table):
            lines += ["", f"[{name}]", *inner]
    return "\n".join(lines) + "\n"


def _lines(settings: dict[str, Any]) -> list[str]:
    return [f"{name} = {_value(value)}" for name, value in settings.items() if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, str):  # TOML's signs are those of JSON, except that it wants DEL escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)
