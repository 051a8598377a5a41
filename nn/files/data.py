"""Frozen values (recipes, formats) as JSON and back, without running code.

None, booleans, integers, finite floats and text stand for themselves, lists for tuples; the rest are objects of one
entry: {"float": "nan"}, {"scheme": text}, {"format": name}, {"ScaleRule": "amax"} for a member of an enumeration and
{"FloatFormat": {field: value}} for a dataclass. Which classes a field may have is read from its annotation, their
subclasses included; a file cannot name any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, get_args, get_type_hints

from narrowgauge.formats import BlockFormat, Format, Scheme
from narrowgauge.formats.operand import OperandScheme, parse_operand

AnyFormat = Format | BlockFormat


def to_data(value: Any, note: Callable[[AnyFormat], None]) -> Any:
    """`value` as JSON. `note` hears of every format that it names. TypeError for types that are not in the list."""
    if isinstance(value, Enum):
        return {type(value).__name__: value.value}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Scheme | OperandScheme):
        note(value.format if isinstance(value, Scheme) else value.scheme.format)
        return {"scheme": str(value)}
    if isinstance(value, AnyFormat):
        note(value)
        return {"format": value.name}
    if isinstance(value, tuple):
        return [to_data(part, note) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return record_data(value, note)
    raise TypeError(f"recipe: got a {type(value).__name__}, which files cannot hold: {value!r:.80}")


def record_data(value: Any, note: Callable[[AnyFormat], None]) -> dict[str, Any]:
    """A dataclass by its fields, also one that `to_data` writes as text."""
    own = {field.name: to_data(getattr(value, field.name), note) for field in fields(value) if field.init}
    return {type(value).__name__: own}


def from_data(data: Any, allowed: Any, named: Callable[[str], AnyFormat]) -> Any:
    """What `to_data` wrote. allowed: the annotation of where it goes. named: formats by name.

    ValueError for data of another form, classes that `allowed` does not have, and fields that a class does not have.
    """
    if isinstance(data, list):
        return tuple(from_data(part, allowed, named) for part in data)
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError(f"expected an object of one entry, got {data!r:.80}")
    ((kind, content),) = data.items()
    if kind == "float":
        return float(content)
    if kind == "scheme":
        return parse_operand(content)
    if kind == "format":
        return named(content)
    classes = {cls.__name__: cls for cls in _classes(allowed)}
    if kind not in classes:
        raise ValueError(f"unknown class {kind!r}, accepted: {', '.join(classes) or 'none'}")
    return _made(classes[kind], content, named)


def _made(cls: Any, content: Any, named: Callable[[str], AnyFormat]) -> Any:
    if issubclass(cls, Enum):
        return cls(content)
    hints = get_type_hints(cls)
    known = [field.name for field in fields(cls) if field.init]
    unknown = [name for name in content if name not in known]
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {unknown[0]!r} in this version; it has {', '.join(known)}")
    return cls(**{name: from_data(value, hints[name], named) for name, value in content.items()})


def _classes(annotation: Any) -> Iterator[Any]:
    """Dataclasses and enumerations in an annotation, and their subclasses."""
    if isinstance(annotation, type) and (is_dataclass(annotation) or issubclass(annotation, Enum)):
        yield annotation
        for cls in annotation.__subclasses__():
            yield from _classes(cls)
    for part in get_args(annotation):
        yield from _classes(part)
