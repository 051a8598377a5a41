"""What is known of a published method: the numbers of its experiment, its claims judged, kept as a JSON file.

``NAME.json`` holds the experiment in float32, ``NAME.RECIPE.STATE.json`` the same under a recipe and a code of AdamW's
moments. Verdicts are those of :mod:`narrowgauge.train.claims`; they are made anew from the numbers whenever a file is
read, so that a file cannot say what its numbers do not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from narrowgauge.bench.evidence_run import Outcome
from narrowgauge.bench.machine import describe_machine
from narrowgauge.bench.report import write_json
from narrowgauge.strict_json import plain
from narrowgauge.train import METHODS, Judged, get_published, judge, verdict

COMMITTED = Path(__file__).parent / "results" / "methods"
"""The results that come with the package."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A method's numbers by seed, and what they say of its claims.

    values: seed → number → value. seconds: of each seed on one core. machine: where it was run.
    """

    method: str
    recipe: str | None
    state: str | None
    setting: str
    values: Mapping[int, Mapping[str, float]]
    seconds: Mapping[int, float]
    judged: tuple[Judged, ...]
    machine: Mapping[str, Any]
    written: str

    @property
    def verdict(self) -> str:
        """Of the whole experiment."""
        return verdict(self.judged)

    @property
    def file_name(self) -> str:
        """See the module."""
        parts = [self.method, *((self.recipe or "float32", self.state or "fp32") if self.is_composed else ())]
        return ".".join(parts) + ".json"

    @property
    def is_composed(self) -> bool:
        """Whether it was run under a recipe or with coded moments."""
        return self.recipe is not None or self.state is not None


def evidence_of(outcomes: Sequence[Outcome]) -> Evidence:
    """Of all seeds of one method, made on this machine.

    Raises ``ValueError`` for outcomes of different methods, recipes or states, and as :func:`judge` does.
    """
    kinds = {(o.trial.method, o.trial.recipe, o.trial.state, o.trial.scale) for o in outcomes}
    if len(kinds) != 1:
        raise ValueError(f"outcomes: expected those of one method, recipe and state, got {sorted(map(str, kinds))}")
    ((method, recipe, state, _),) = kinds
    ordered = sorted(outcomes, key=lambda outcome: outcome.trial.seed)
    experiment = get_published(method).experiment()
    return Evidence(
        method=method,
        recipe=recipe,
        state=state,
        setting=experiment.setting,
        values={o.trial.seed: o.values for o in ordered},
        seconds={o.trial.seed: round(o.seconds, 1) for o in ordered},
        judged=tuple(judge(claim, [o.values for o in ordered]) for claim in experiment.claims),
        machine=plain(describe_machine()),
        written=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_evidence(evidence: Evidence, folder: Path) -> Path:
    """Writes the file into the folder; its path."""
    return write_json(folder / evidence.file_name, {**plain(evidence), "verdict": evidence.verdict})


def read_evidence(path: Path) -> Evidence:
    """Of a file, judged by the claims that the method makes now.

    Raises ``ValueError`` for a file of another form, a method that is not registered, and where a claim is about a
    number that the file does not have: the experiment was changed since, and must be run again.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # A number that was not finite is null in JSON.
        values = {
            int(seed): {name: float("nan") if value is None else float(value) for name, value in numbers.items()}
            for seed, numbers in content["values"].items()
        }
        experiment = get_published(content["method"]).experiment()
        judged = tuple(judge(claim, list(values.values())) for claim in experiment.claims)
        seconds = {int(seed): float(value) for seed, value in content["seconds"].items()}
        kept = {name: content[name] for name in ("method", "recipe", "state", "setting", "machine", "written")}
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: is no result of `narrowgauge methods check` ({error!r})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Evidence(**kept, values=values, seconds=seconds, judged=judged)


def all_evidence(folder: Path) -> list[Evidence]:
    """Of every file in a folder, float32 first, in the order of the names; none where there is no folder."""
    found = [read_evidence(path) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda evidence: (evidence.method, evidence.is_composed, evidence.file_name))


def without_evidence(found: Iterable[Evidence]) -> list[str]:
    """Names of the registered methods that no float32 result is there for."""
    known = {evidence.method for evidence in found if not evidence.is_composed}
    return [name for name in sorted(METHODS) if name not in known]
