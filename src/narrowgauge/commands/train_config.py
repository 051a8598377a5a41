"""Settings of `narrowgauge train` from where they are given: defaults, a TOML file over them, flags over both.

The keys of the file are the names of the fields, of a table for `sizes` and `early_stopping`. Two more have the form of
a table beside their text: `[data]` with a weight for each source, and `[methods.NAME]` with a method's settings.
"""

from __future__ import annotations

import json
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from narrowgauge.commands.train_settings import Sizes as Sizes
from narrowgauge.commands.train_settings import Stopping as Stopping
from narrowgauge.commands.train_settings import TrainConfig as TrainConfig

FIELDS = {field.name: field for field in fields(TrainConfig)}
KINDS = get_type_hints(TrainConfig)
TABLES: dict[str, Any] = {name: kind for name, kind in KINDS.items() if is_dataclass(kind)}


def leaves() -> dict[str, tuple[Any, type[Any]]]:
    """Every setting by its whole name (`early_stopping.patience`): its field, and its type without None."""
    found = {}
    for name, field in FIELDS.items():
        inner = fields(TABLES[name]) if name in TABLES else (field,)
        hints = get_type_hints(TABLES[name]) if name in TABLES else KINDS
        for each in inner:
            found[f"{name}.{each.name}" if name in TABLES else name] = (each, _kind(hints[each.name]))
    return found


def _kind(hint: Any) -> type[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    return get_origin(hint) or hint


def read_toml(path: str | Path) -> dict[str, Any]:
    """Settings of a TOML file; ValueError for what is no TOML and for unknown keys, with the nearest known one."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config: {path} is not TOML: {error}") from error
    return checked(content, str(path))


def checked(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings as plain values, tables as dictionaries, each with the type of its field.

    where: what the errors call it. Raises ValueError for unknown keys, with the nearest known one, and for values of
    another type.
    """
    known = leaves()
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in TABLES:
            if not isinstance(value, Mapping):
                inner = ", ".join(field.name for field in fields(TABLES[name]))
                raise ValueError(f"config: {where}: {name}: expected a table with {inner}; got {value!r}")
            settings[name] = {}
            for inner_key, inner_value in value.items():
                whole = f"{name}.{inner_key.replace('-', '_')}"
                if whole not in known:
                    raise ValueError(_unknown(f"{name}.{inner_key}", whole, known, where))
                settings[name][known[whole][0].name] = _checked(whole, inner_value, known[whole][1], where)
        elif name in known:
            settings[name] = _checked(name, value, known[name][1], where)
        else:
            raise ValueError(_unknown(key, name, known, where))
    return settings


def _unknown(key: str, name: str, known: Mapping[str, Any], where: str) -> str:
    """The message for a key; a setting that is in a table is found by its own name too."""
    table, _, last = name.rpartition(".")
    names = {whole.rpartition(".")[2]: whole for whole in known} | {whole: whole for whole in (*known, *TABLES)}
    if inside := [whole for whole in known if table and whole.startswith(f"{table}.")]:
        names, name = {whole.rpartition(".")[2]: whole for whole in inside}, last
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    known_names = inside or [*TABLES, *(whole for whole in known if "." not in whole)]
    hint = f"did you mean {names[near[0]]!r}?" if near else f"known: {', '.join(known_names)}"
    return f"config: {where} has an unknown key {key!r}; {hint}"


def _checked(name: str, value: Any, kind: type[Any], where: str) -> Any:
    """`value` as the type of the field; ValueError for another type."""
    if isinstance(value, Mapping) and name == "data":
        return mixture_text(value)
    if isinstance(value, Mapping) and name == "methods":
        return tuple(method_text(method, settings) for method, settings in value.items())
    if kind is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"config: {where}: {name}: expected a list of strings, got {value!r}")
        return tuple(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"config: {where}: {name}: expected {kind.__name__}, got {value!r}")
    return value


def mixture_text(weights: Mapping[str, Any]) -> str:
    """`[data]` on one line: code=0.7,docstrings=0.3; a list of two weights is what it moves from and to."""
    parts = []
    for name, weight in weights.items():
        both = weight if isinstance(weight, list) and len(weight) == 2 else [weight]
        if any(sign in name for sign in ",=") or any(type(number) not in (int, float) for number in both):
            raise ValueError(
                f"data: expected name = weight or name = [first, last], names without , and =; got {name} = {weight!r}"
            )
        parts.append(f"{name}={'..'.join(map(str, both))}")
    return ",".join(parts)


def method_text(name: str, settings: Any) -> str:
    """`[methods.NAME]` on one line: NAME:key=value,key=value."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"methods: expected a table [methods.{name}] of its settings, got {settings!r}")
    values = ",".join(f"{key}={_setting_text(value)}" for key, value in settings.items())
    return f"{name}:{values}" if values else name


def _setting_text(value: Any) -> str:
    """JSON, without quotes around what is no JSON anyway."""
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value)
    return value if is_word and value not in ("true", "false", "null", "NaN", "Infinity") else json.dumps(value)


def merge(file: Mapping[str, Any], flags: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a file's settings with the flags that were given (not None) over them.

    Both have tables as dictionaries; what a run's config.json has under these names will do as well.
    """
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in file.items()}
    for name, value in flags.items():
        if name in TABLES:
            inner = {key: item for key, item in value.items() if item is not None}
            given[name] = {**given.get(name, {}), **inner}
        elif value is not None:
            given[name] = value
    tables = {name: kind(**given.pop(name, {})) for name, kind in TABLES.items()}
    return TrainConfig(**given, **tables)
