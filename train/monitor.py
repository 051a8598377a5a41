"""The trainer's side of a `narrowgauge.numerics.TensorMonitor`: which one, when, and what is logged."""

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn

from narrowgauge.formats import Scheme
from narrowgauge.numerics.monitors.monitor import TensorMonitor
from narrowgauge.numerics.monitors.rows import MonitorRow
from narrowgauge.train.loggers import Values
from narrowgauge.train.method import Metrics

MonitorChoice = bool | TensorMonitor | Sequence[str | Scheme] | None
"""``True``: the default schemes; schemes: those; ``None`` or ``False``: no monitor."""


def as_monitor(choice: MonitorChoice, model: nn.Module) -> TensorMonitor | None:
    """The monitor that ``choice`` stands for, attached to ``model``.

    Raises ``TypeError`` for another kind of choice, ``ValueError`` for schemes that cannot be and for a model
    without linear layers.
    """
    if choice is None or choice is False:
        return None
    if choice is True:
        return TensorMonitor().attach(model)
    if isinstance(choice, TensorMonitor):
        return choice.attach(model)
    if isinstance(choice, Sequence):
        return TensorMonitor([choice] if isinstance(choice, str) else choice).attach(model)
    raise TypeError(f"monitor: expected True, a TensorMonitor or schemes such as ['e4m3fn'], got {choice!r}")


class MonitorLogger:
    """Among the trainer's loggers: tells the monitor where a run starts, so that a resumed one goes on with the rows
    before that step."""

    def __init__(self, monitor: TensorMonitor) -> None:
        self.monitor = monitor

    def start(self, first: int, last: int) -> None:
        self.monitor.start(first)

    def log(self, step: int, metrics: Values) -> None:
        """The metrics come from the monitor."""

    def stop(self) -> None:
        """Every row is in the file already."""


@contextlib.contextmanager
def watched(monitor: TensorMonitor | None, step: int) -> Iterator[Metrics]:
    """Around a training step; gives metrics that are filled at its end, and stay empty where it is not observed."""
    metrics: Metrics = {}
    if monitor is None:
        yield metrics
        return
    with monitor.step(step) as rows:
        yield metrics
    metrics |= summary(rows)


def summary(rows: Sequence[MonitorRow]) -> Metrics:
    """A step's rows in few numbers, over the layers.

    ``monitor/ROLE/SCHEME/``: ``sqnr_db`` (mean) and ``sqnr_db_min`` in dB, ``underflow_max`` and ``clipped_max`` as
    shares of the elements. ``monitor/ROLE/``: ``amax_over_rms_max``, and from the second observation on
    ``delayed_miss_max``, which is above 1 where delayed scaling would have clipped.
    """
    metrics: Metrics = {}
    for role, scheme in dict.fromkeys((row.role, row.scheme) for row in rows):
        chosen = [row for row in rows if (row.role, row.scheme) == (role, scheme)]
        sqnr = [row.sqnr_db for row in chosen]
        prefix = f"monitor/{role}/{scheme}"
        metrics[f"{prefix}/sqnr_db"] = sum(sqnr) / len(sqnr)
        metrics[f"{prefix}/sqnr_db_min"] = min(sqnr)
        for name, metric in (("underflow_max", "underflow"), ("clipped_max", "overflow_clipped")):
            metrics[f"{prefix}/{name}"] = max(row.metrics[metric] or 0.0 for row in chosen)
    for role in dict.fromkeys(row.role for row in rows):
        chosen = [row for row in rows if row.role == role]
        metrics[f"monitor/{role}/amax_over_rms_max"] = max(row.amax_over_rms for row in chosen)
        misses = [row.delayed_miss for row in chosen if row.delayed_miss is not None]
        if misses:
            metrics[f"monitor/{role}/delayed_miss_max"] = max(misses)
    return metrics
