"""The register of published training methods: whose each is, and the experiment that shows its effect."""

import difflib
from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

from narrowgauge.train.experiment import Experiment
from narrowgauge.train.method import Method


class Published(ABC):
    """Something from the literature that has a name here, says whose it is, and can show its effect.

    ``name`` identifies it; ``summary`` is a line on what it does; ``paper`` and ``arxiv`` say whose it is; ``usage``
    is a short example, as a user would write it. The module of the class explains the mechanism with its formulas.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    arxiv: ClassVar[str] = ""
    usage: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def experiment(cls) -> Experiment:
        """A scaled-down run against a control, over several seeds; minutes on two cores."""


class PublishedMethod(Method, Published):
    """A published method that is plugged into a run by its hooks: ``Trainer(…, methods=[…])``."""


class Procedure(Published):
    """What is run and not plugged in: several phases, a benchmark, a fit. It is called from Python."""

    hooks: ClassVar[tuple[str, ...]] = ()
    """What it needs of the loop, for `narrowgauge methods list`: "phases", "evaluation", "fit" …"""


METHODS: dict[str, type[Published]] = {}
"""Registered methods by name; filled when :mod:`narrowgauge.methods` is imported."""

P = TypeVar("P", bound=Published)


def register(cls: type[P]) -> type[P]:
    """Class decorator: put a method or procedure into :data:`METHODS`.

    Raises ``ValueError`` when the name is taken, or name, summary, paper or ``experiment()`` is missing.
    """
    for field in ("name", "summary", "paper"):
        if not getattr(cls, field):
            raise ValueError(f"{field}: method class {cls.__name__} has none")
    if "experiment" in cls.__abstractmethods__:
        raise ValueError(f"experiment: method {cls.name!r} has no experiment() that shows its effect")
    if cls.name in METHODS:
        raise ValueError(f"name: {cls.name!r} is already the name of {METHODS[cls.name].__qualname__}")
    METHODS[cls.name] = cls
    return cls


def get_published(name: str) -> type[Published]:
    """The class registered as ``name``; ``ValueError`` with the nearest names for an unknown one."""
    if name not in METHODS:
        nearest = difflib.get_close_matches(name, METHODS, n=3) or sorted(METHODS)
        raise ValueError(f"name: unknown method {name!r}; nearest: {', '.join(nearest) or 'none is registered'}")
    return METHODS[name]


def get_method(name: str) -> type[PublishedMethod]:
    """The plug-in registered as ``name``; ``ValueError`` for an unknown name and for a procedure."""
    cls = get_published(name)
    if not issubclass(cls, PublishedMethod):
        raise ValueError(
            f"name: {name!r} is a procedure, it is not plugged into a run; `narrowgauge methods show {name}` says how"
            " it is used"
        )
    return cls


def hooks_of(cls: type[Published]) -> tuple[str, ...]:
    """The hooks that a plug-in overrides, in the order in which the loop calls them; a procedure's own list."""
    if issubclass(cls, Procedure):
        return cls.hooks
    bookkeeping = ("state_dict", "load_state_dict", "overrides")
    return tuple(
        hook
        for hook, value in vars(Method).items()
        if callable(value) and not hook.startswith("_") and hook not in bookkeeping and getattr(cls, hook) is not value
    )
