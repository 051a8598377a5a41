"""QAT configurations as plain data and back, for files.

    part      {"kind": name of its class, "settings": {name: number, text, boolean or None}}, or None
    config    {"name", "weight", "activation", "kv", "gradient": parts, "kv_layers", "phase", "source"}

A file names classes; only subclasses of the quantisers' base classes are looked up, one's own if they are imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from narrowgauge.nn.qat.config import Part, Phase, QATConfig, part
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, GradientQuantizer, WeightQuantizer

BASES: tuple[type[nn.Module], ...] = (WeightQuantizer, ActivationQuantizer, GradientQuantizer)
PARTS = ("weight", "activation", "kv", "gradient")


def _subclasses(cls: type[nn.Module]) -> Iterator[type[nn.Module]]:
    for below in cls.__subclasses__():
        yield below
        yield from _subclasses(below)


def _kinds() -> dict[str, type[nn.Module]]:
    return {cls.__name__: cls for base in BASES for cls in _subclasses(base)}


def part_data(given: Part | None) -> dict[str, Any] | None:
    """A part as data. TypeError for a class that files cannot name, and for settings that are no plain values."""
    if given is None:
        return None
    name = getattr(given.kind, "__name__", str(given.kind))
    if _kinds().get(name) is not given.kind:
        raise TypeError(f"config: files cannot name {name}; accepted: {', '.join(base.__name__ for base in BASES)}")
    for setting, value in given.settings:
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise TypeError(f"config: {setting} of {name} is a {type(value).__name__}, which files cannot hold")
    return {"kind": name, "settings": dict(given.settings)}


def part_from_data(data: Mapping[str, Any] | None) -> Part | None:
    """What `part_data` gave. ValueError for classes that are not known here, and for settings that they do not take."""
    if data is None:
        return None
    kinds = _kinds()
    if data["kind"] not in kinds:
        raise ValueError(f"config: {data['kind']!r} is not known here; import the module that defines it")
    try:
        return part(kinds[data["kind"]], **data["settings"])
    except TypeError as error:
        raise ValueError(f"config: {data['kind']}: {error}") from error


def config_data(config: QATConfig) -> dict[str, Any]:
    """A configuration as data. TypeError where `part_data` raises it."""
    phase = None if config.phase is None else {"start": config.phase.start, "ramp": config.phase.ramp}
    parts = {name: part_data(getattr(config, name)) for name in PARTS}
    return {
        "name": config.name, **parts, "kv_layers": list(config.kv_layers), "phase": phase, "source": config.source
    }  # fmt: skip


def config_from_data(data: Mapping[str, Any]) -> QATConfig:
    """What `config_data` gave. ValueError where `part_from_data` raises it."""
    parts: dict[str, Any] = {name: part_from_data(data[name]) for name in PARTS}
    phase = None if data["phase"] is None else Phase(**data["phase"])
    return QATConfig(name=data["name"], **parts, kv_layers=tuple(data["kv_layers"]), phase=phase, source=data["source"])
