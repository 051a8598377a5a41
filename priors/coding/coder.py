"""Coders by name: integers to a bitstream and back, exactly."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, ClassVar, Protocol, TypeVar

from numpy.typing import NDArray

from narrowgauge.priors.coding.record import Coded


class Coder(Protocol):
    """A way to code integers. Options are the arguments of the class; a decoder needs none of them."""

    name: ClassVar[str]

    def encode(self, symbols: Any) -> Coded:
        """Codes an array of integers (of any shape, up to 2^63 - 1), flattened. TypeError for other dtypes."""
        ...

    @classmethod
    def decode(cls, coded: Coded) -> NDArray[Any]:
        """The symbols, [count]. ValueError for a record that is damaged."""
        ...


Kind = TypeVar("Kind", bound=type[Coder])
CODERS: dict[str, type[Coder]] = {}
"""Name → class."""


def register(name: str) -> Callable[[Kind], Kind]:
    """Decorator of a coder's class."""

    def add(kind: Kind) -> Kind:
        CODERS[name] = kind
        kind.name = name
        return kind

    return add


def coder(name: str, **options: Any) -> Coder:
    """The coder of this name: exp-golomb, huffman, rans. ValueError for others, TypeError for options it lacks."""
    return _kind(name)(**options)


def decode(coded: Coded) -> NDArray[Any]:
    """The symbols of a record of any coder, [count], in the type they had. ValueError for one that is damaged."""
    return _kind(coded.coder).decode(coded)


def _kind(name: str) -> type[Coder]:
    if name not in CODERS:
        near = get_close_matches(str(name), CODERS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"coder: got {name!r}{hint}; accepted: {', '.join(CODERS)}")
    return CODERS[name]
