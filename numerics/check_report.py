"""What a check of somebody's quantizer, GEMM, module or codec found: failures that name their kind, and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Failure:
    """One requirement that was not met.

    check: the check that found it. message: a sentence with the place, what was got and what is right. kind: a short
    name of the fault, the same for the same cause ("k tail dropped"). example: plain values (numbers, texts, lists)
    that reproduce it.
    """

    check: str
    message: str
    kind: str
    example: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.check} [{self.kind}]: {self.message}"


@dataclass(frozen=True)
class CheckReport:
    """Which checks ran on a subject, what failed, and what was measured on the way.

    checks: the names of all checks that ran, failed ones included, in order. measurements: figures that have no limit
    of their own, by name.
    """

    subject: str
    checks: tuple[str, ...]
    failures: tuple[Failure, ...] = ()
    measurements: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "measurements", MappingProxyType(dict(self.measurements)))

    @property
    def ok(self) -> bool:
        """True if nothing failed."""
        return not self.failures

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the failures, each once, in order."""
        return tuple(dict.fromkeys(failure.kind for failure in self.failures))

    def table(self) -> str:
        """The report as text: a line per check, its failures below it, then the measurements."""
        width = max((len(name) for name in (*self.checks, *self.measurements)), default=0)
        verdict = "ok" if self.ok else f"{len(self.failures)} failures"
        lines = [f"{self.subject}: {len(self.checks)} checks, {verdict}"]
        for name in self.checks:
            found = [failure for failure in self.failures if failure.check == name]
            lines.append(f"  {name:<{width}}  {'failed' if found else 'ok'}")
            lines += [f"    [{failure.kind}] {failure.message}" for failure in found]
        elsewhere = [failure for failure in self.failures if failure.check not in self.checks]
        lines += [f"  {failure}" for failure in elsewhere]
        if self.measurements:
            lines.append("measurements")
            lines += [f"  {name:<{width}}  {value:.4g}" for name, value in self.measurements.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dictionaries, lists, texts and numbers, for JSON."""
        return {
            "subject": self.subject,
            "ok": self.ok,
            "checks": list(self.checks),
            "failures": [
                {"check": f.check, "kind": f.kind, "message": f.message, "example": dict(f.example)}
                for f in self.failures
            ],
            "measurements": dict(self.measurements),
        }

    def raise_if_failed(self) -> None:
        """AssertionError with every failure's check, kind and message; nothing if all is well."""
        if self.failures:
            lines = "\n".join(f"  {failure}" for failure in self.failures)
            raise AssertionError(f"{self.subject}: {len(self.failures)} failures\n{lines}")
