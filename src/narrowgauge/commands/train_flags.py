"""The flags of `narrowgauge train`, one for each setting."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from narrowgauge.commands.train_config import FIELDS, TABLES, leaves
from narrowgauge.commands.train_settings import GROUPS

METHODS = "methods"
METAVARS = {
    "data": "PATH|DOMAIN|MIXTURE",
    "tokenizer": "bytes|bpe:FILE",
    "recipe": "NAME|FILE",
    METHODS: "NAME[:key=value,…]",
    "loggers": "NAME,…",
    "out": "FOLDER",
}
KIND_METAVARS = {int: "N", float: "X", str: "NAME"}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Flags in groups; None where one was not given."""
    groups = {name: parser.add_argument_group(text) for name, text in GROUPS.items()}
    for name, (field, kind) in leaves().items():
        flag = "--method" if name == METHODS else "--" + name.replace("_", "-").replace(".", "-")
        choices = field.metadata["choices"]
        options: dict[str, Any] = {"dest": name, "help": _help(field), "default": None}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            metavar = "{" + ",".join(choices) + "}" if choices else KIND_METAVARS.get(kind)
            options["metavar"] = METAVARS.get(name, metavar)
            options |= {"action": "append"} if name == METHODS else {"type": names if kind is tuple else kind}
        groups[field.metadata["group"]].add_argument(flag, **options)


def _help(field: Any) -> str:
    text: str = field.metadata["text"].replace("%", "%%")
    if field.default is None or field.default == ():
        return text
    default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    shown = str(default).lower() if isinstance(default, bool) else default
    return f"{text} (default: {shown})"


def names(text: str) -> tuple[str, ...]:
    """Names that are separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def given(args: argparse.Namespace) -> Mapping[str, Any]:
    """The flags by the names of the settings, tables as dictionaries; None where one was not given."""
    flags: dict[str, Any] = {name: {} for name in TABLES} | {name: None for name in FIELDS if name not in TABLES}
    for name in leaves():
        table, _, last = name.rpartition(".")
        (flags[table] if table else flags)[last] = getattr(args, name)
    if flags[METHODS]:
        flags[METHODS] = tuple(flags[METHODS])
    return flags
