"""Settings of `narrowgauge train`: defaults, a TOML file over them, flags over both."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. data: a text file or folder, None for the standard library's sources. out: None for
    runs/<model>-<recipe>. device: None for CUDA where there is one. methods: `NAME` or `NAME:key=value,key=value`."""

    data: str | None = None
    model: str = "demo"
    recipe: str = "fp8_row"
    state: str = "log8"
    steps: int = 500
    batch_size: int = 8
    seq_len: int = 128
    lr: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.1
    seed: int = 0
    eval_every: int = 100
    save_every: int = 100
    methods: tuple[str, ...] = ()
    out: str | None = None
    device: str | None = None

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        if self.out is not None:
            return Path(self.out)
        return Path("runs") / f"{self.model}-{Path(self.recipe).name.removesuffix('.toml')}"


FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}


def read_toml(path: str | Path) -> dict[str, Any]:
    """Settings of a TOML file; ValueError for what is no TOML and for unknown keys, with the nearest known one."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config: {path} is not TOML: {error}") from error
    settings = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FIELDS)}"
            raise ValueError(f"config: {path} has an unknown key {key!r}; {hint}")
        settings[name] = _checked(name, value, str(path))
    return settings


def _checked(name: str, value: Any, where: str) -> Any:
    """`value` with the type of the field's default; ValueError for another type."""
    if name == "methods":
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"config: {where}: methods: expected a list of strings, got {value!r}")
        return tuple(value)
    default = FIELDS[name].default
    kind = str if default is None else type(default)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"config: {where}: {name}: expected {kind.__name__}, got {value!r}")
    return value


def merge(file: Mapping[str, Any], flags: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a file's settings with the flags that were given (not None) over them."""
    return TrainConfig(**{**file, **{name: value for name, value in flags.items() if value is not None}})


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of `NAME:key=value,…`; values are read as JSON (0.99, true), else as text."""
    name, _, rest = text.partition(":")
    settings = {}
    for item in rest.split(",") if rest else []:
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"method: expected NAME:key=value,key=value, got {text!r}")
        settings[key.strip()] = _value(value.strip())
    return name.strip(), settings


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
