"""All codecs side by side: this package's and the models of other people's, through every experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from narrowgauge.bench.optim_peers import LOG8_TO_NEAREST, STATE_PEERS, WEIGHT_CONTROL, WEIGHT_PEERS
from narrowgauge.bench.optim_quality.experiments import (
    STATE_EXPERIMENTS,
    WEIGHT_EXPERIMENTS,
    Experiment,
    bytes_table,
    measured_bytes,
)
from narrowgauge.bench.optim_quality.masters import MASTER_CODECS
from narrowgauge.bench.optim_quality.sizes import FULL, QUICK, Sizes
from narrowgauge.bench.optim_quality.table import Figures, Line, QualityResult, Role, Subject, Table
from narrowgauge.bench.optim_quality.vectors import check_vectors
from narrowgauge.bench.optim_quality.verdict import verdicts
from narrowgauge.kernels.codecs import CODECS
from narrowgauge.optim.codec_check import named_codec

Show = Callable[[int, int, str], None]
PROMISED_BYTES: Mapping[str, float] = {"log8": 2.07, "coat": 2.2, "log4": 1.15}
"""Name → largest number of bytes per parameter of both moments."""
BIAS = 1e-3
"""Largest deviation of the mean of v from what it should be, after all writes of `slope`."""


def run_quality(states: Sequence[str] | None = None, *, quick: bool = False, show: Show | None = None) -> QualityResult:
    """Every experiment for `states` (None: all named codecs of AdamW) and every peer.

    quick: sizes that show that it runs, not what comes out. show(done, total, what is next) is called before each
    experiment of each codec. ValueError for unknown states.
    """
    sizes = QUICK if quick else FULL
    ours = {name: named_codec(name) for name in (CODECS if states is None else states)}
    codecs: dict[str, Any] = {**ours, LOG8_TO_NEAREST.name: LOG8_TO_NEAREST, **STATE_PEERS}
    weights: dict[str, Any] = {**MASTER_CODECS, **WEIGHT_PEERS}
    subjects = [
        Subject(name, _role(name), measured_bytes(codec, sizes.side)) for name, codec in {**codecs, **weights}.items()
    ]
    jobs = [(experiment, codecs) for experiment in STATE_EXPERIMENTS]
    jobs += [(experiment, weights) for experiment in WEIGHT_EXPERIMENTS]
    count = _Count(sum(len(of) for _, of in jobs), show or (lambda done, total, what: None))
    tables = [bytes_table({subject.name: subject.bytes_per_parameter for subject in subjects})]
    tables += [_table(experiment, of, sizes, count) for experiment, of in jobs]
    lines = [*check_vectors(ours), *_promises(tables, ours, quick)]
    return QualityResult(subjects, tables, lines, verdicts(tables, subjects), _settings(sizes, quick))


def _role(name: str) -> Role:
    if name == LOG8_TO_NEAREST.name or name == WEIGHT_CONTROL:
        return Role.CONTROL
    return Role.PEER if name in STATE_PEERS or name in WEIGHT_PEERS else Role.OURS


class _Count:
    """How far the run is."""

    def __init__(self, total: int, show: Show) -> None:
        self.done, self.total, self.show = 0, total, show

    def next(self, what: str) -> None:
        self.show(self.done, self.total, what)
        self.done += 1


def _table(experiment: Experiment, codecs: Mapping[str, Any], sizes: Sizes, count: _Count) -> Table:
    rows: dict[str, Figures] = {}
    failed: dict[str, str] = {}
    for name, codec in codecs.items():
        count.next(f"{experiment.key}: {name}")
        if experiment.stochastic and not getattr(codec, "stochastic", False):
            continue
        try:
            rows[name] = experiment.run(codec, sizes)
        except Exception as error:  # a codec that fails is a finding, and no reason to lose the others
            failed[name] = f"{type(error).__name__}: {error}"[:200]
    judge = experiment.broken
    broken = {name: found for name, row in rows.items() if judge is not None and (found := judge(codecs[name], row))}
    expected = {name: row for name, row in experiment.expected.items() if name in rows}
    columns = tuple(next(iter(rows.values()), ()))
    return Table(experiment.key, experiment.title, columns, rows, experiment.better, experiment.tolerance, expected,
                 broken, failed, experiment.ours)  # fmt: skip


def _promises(tables: Sequence[Table], ours: Mapping[str, object], quick: bool) -> Iterator[Line]:
    """What this package says of its own codecs. quick: without what takes many writes to tell."""
    found = {table.key: table for table in tables}
    for name, most in PROMISED_BYTES.items():
        if name in found["bytes"].rows:
            size = found["bytes"].rows[name]["bytes"]
            yield Line(f"{name}: at most {most:g} bytes per parameter", size <= most, f"{size:.4f}")
    for name, codec in ours.items():
        broken = found["defects"].broken.get(name, {})
        yield Line(f"{name}: constant groups, zeros and tiny elements do no harm", not broken,
                   ", ".join(f"{column}: {what}" for column, what in broken.items()) or "none does")  # fmt: skip
        # Of what is dithered (a codec with a resolution) each write's noise is too large for a mean to tell.
        tells = "v" in getattr(codec, "unbiased", ("v",)) and not getattr(codec, "resolution", 0.0)
        if name in found["slope"].rows and tells and not quick:
            slope = found["slope"].rows[name]["v"]
            yield Line(f"{name}: no bias in v after many writes", abs(slope - 1.0) <= BIAS, f"slope {slope:.5f}")
    for table in tables:
        for name, reason in table.failed.items():
            yield Line(f"{name}: {table.key}", False, reason)


def _settings(sizes: Sizes, quick: bool) -> dict[str, Any]:
    values = {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(sizes).items()}
    return {"quick": quick, **values}
