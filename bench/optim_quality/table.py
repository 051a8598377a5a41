"""What the comparison of codecs gives back: tables of figures, pass/fail lines, and who is better where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from narrowgauge.bench.machine import Machine, describe_machine
from narrowgauge.strict_json import plain

Figures = Mapping[str, float]
"""Column → figure."""


class Better(StrEnum):
    """Which of two figures is the better one."""

    SMALLER = "smaller"
    NEARER_ONE = "nearer 1"
    NEITHER = ""


class Role(StrEnum):
    """What a subject is: a codec of this package, a model of another's, or ours without something, for comparison."""

    OURS = "ours"
    PEER = "peer"
    CONTROL = "control"


@dataclass(frozen=True)
class Subject:
    """One codec in the comparison, with its bytes per parameter, measured."""

    name: str
    role: Role
    bytes_per_parameter: float


@dataclass(frozen=True)
class Table:
    """rows: subject → column → figure. expected: figures of the same codec from a paper, or from an earlier emulation
    of ours. tolerance: relative difference of two figures (of their distances from 1, absolute) that is chance. broken:
    subject → column → what is wrong there ("NaN", "v = 0"). failed: subject → why it has no row. ours: the subject that
    is compared with every peer."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Figures]
    better: Better = Better.NEITHER
    tolerance: float = 0.0
    expected: Mapping[str, Figures] = field(default_factory=dict)
    broken: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    ours: str = ""


@dataclass(frozen=True)
class Line:
    """A test vector or a promise: did it hold, and what was found."""

    name: str
    ok: bool
    found: str


class Standing(StrEnum):
    """Ours among the peers: none is better, only such as take far more bytes, or others as well."""

    BEST = "best"
    BEST_FOR_ITS_BYTES = "best for its bytes"
    BEHIND = "behind"


@dataclass(frozen=True)
class Verdict:
    """Ours against every peer in one column. best_peer, best: among the peers that do not take far more bytes than
    ours. ahead: the peers that are better than ours beyond chance → by what factor (of the figures, or of their
    distances from 1); dearer: those of them that take far more bytes. reasons: why each is ahead, or "not explained".
    """

    table: str
    column: str
    ours: float
    best_peer: str
    best: float
    ahead: Mapping[str, float]
    dearer: Sequence[str] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def standing(self) -> Standing:
        """Where ours is."""
        if not self.ahead:
            return Standing.BEST
        return Standing.BEST_FOR_ITS_BYTES if set(self.ahead) == set(self.dearer) else Standing.BEHIND


@dataclass(frozen=True)
class QualityResult:
    """All of one run. `settings`: sizes, so that a quick run is not mistaken for a full one."""

    subjects: Sequence[Subject]
    tables: Sequence[Table]
    lines: Sequence[Line]
    verdicts: Sequence[Verdict]
    settings: Mapping[str, Any]
    suite: str = "optim quality"
    machine: Machine = field(default_factory=describe_machine)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; figures that are not finite become the texts "inf" and "nan"."""
        content: dict[str, Any] = plain(self, str)
        for verdict, full in zip(content["verdicts"], self.verdicts, strict=True):
            verdict["standing"] = full.standing.value
        return content
