"""A monitor's rows as a `SweepResult`: means over the steps, and curves over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from narrowgauge.numerics.monitors.rows import MonitorRow
from narrowgauge.numerics.sweeps.measure import describe
from narrowgauge.numerics.sweeps.result import SweepResult
from narrowgauge.numerics.sweeps.rows import Series, SweepRow, TensorSummary, clipped_db
from narrowgauge.numerics.tensors.named import TensorInfo

if TYPE_CHECKING:
    from narrowgauge.numerics.monitors.monitor import TensorMonitor


def monitor_report(monitor: TensorMonitor, title: str) -> SweepResult:
    """See `TensorMonitor.report`."""
    if not monitor.rows:
        raise ValueError("monitor: nothing was observed yet; no step was due, or none was run")
    groups: dict[tuple[str, str, str], list[MonitorRow]] = {}
    for row in monitor.rows:
        groups.setdefault((row.layer, row.role, row.scheme), []).append(row)
    steps = sorted({row.step for row in monitor.rows})
    found = {row.role for row in monitor.rows}
    notes = [f"{len(steps)} steps were observed, {steps[0]} to {steps[-1]}; SQNR is that of the mean noise over them."]
    notes += [f"No {role} was seen: hooks do not reach it." for role in monitor.roles if role not in found]
    return SweepResult(
        rows=tuple(_mean_row(rows) for rows in groups.values()),
        tensors=tuple(_summary(monitor, layer, role) for layer, role in dict.fromkeys(key[:2] for key in groups)),
        schemes=tuple(describe(scheme) for scheme in monitor.schemes),
        skipped=tuple(monitor.skipped.values()),
        series=tuple(_series(monitor.rows, steps)) if len(steps) > 1 else (),
        seed=monitor.seed,
        target_db=monitor.target_db,
        title=title,
        notes=tuple(notes),
    )


def _mean_row(rows: Sequence[MonitorRow]) -> SweepRow:
    first = rows[0]
    metrics = {name: _mean(row.metrics.get(name) for row in rows) for name in first.metrics}
    metrics["sqnr_db"] = mean_sqnr_db(row.sqnr_db for row in rows)
    bits = fmean(row.bits for row in rows)
    return SweepRow(f"{first.layer}.{first.role}", first.role, first.scheme, bits, metrics)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def mean_sqnr_db(values: Iterable[float]) -> float:
    """SQNR of the mean noise-to-signal ratio: a bad step is not made good by an exact one."""
    noise = fmean(10.0 ** (-value / 10.0) if value != -math.inf else math.inf for value in values)
    if noise == 0.0:
        return math.inf
    return -10.0 * math.log10(noise) if not math.isinf(noise) else -math.inf


def _summary(monitor: TensorMonitor, layer: str, role: str) -> TensorSummary:
    """The last observation; of a resumed run that has none yet, what the file tells of it."""
    if (layer, role) in monitor.summaries:
        return monitor.summaries[layer, role]
    last = [row for row in monitor.rows if (row.layer, row.role) == (layer, role)][-1]
    info = TensorInfo(f"{layer}.{role}", role, (), "")
    return TensorSummary(info, 0, last.amax, last.rms, math.nan, math.nan, math.nan, 0, ())


def _series(rows: Sequence[MonitorRow], steps: Sequence[int]) -> Iterable[Series]:
    for role in dict.fromkeys(row.role for row in rows):
        of_role = [row for row in rows if row.role == role]
        schemes = list(dict.fromkeys(row.scheme for row in of_role))
        mean = {
            scheme: _curve([row for row in of_role if row.scheme == scheme], steps, fmean, lambda row: row.sqnr_db)
            for scheme in schemes
        }
        x = tuple(float(step) for step in steps)
        yield Series(f"SQNR over the steps: {role}s, mean of the layers", "step", "SQNR, dB", x, mean)
    misses = {
        role: _curve([row for row in rows if row.role == role], steps, max, lambda row: row.delayed_miss)
        for role in dict.fromkeys(row.role for row in rows)
    }
    title = "Delayed scaling: largest amax over the amax of its history (above 1: clipped)"
    yield Series(title, "step", "amax ratio", tuple(float(step) for step in steps), misses)


def _curve(
    rows: Sequence[MonitorRow],
    steps: Sequence[int],
    merge: Callable[[list[float]], float],
    value: Callable[[MonitorRow], float | None],
) -> tuple[float, ...]:
    """One number per step, over the rows of that step; NaN where there is none."""
    by_step: dict[int, list[float]] = {}
    for row in rows:
        number = value(row)
        if number is not None and not math.isnan(number):
            by_step.setdefault(row.step, []).append(clipped_db(number))
    return tuple(merge(by_step[step]) if step in by_step else math.nan for step in steps)
