"""`TensorMonitor`: what formats would do to the operands of a model while it trains; training itself is not touched.

>>> monitor = TensorMonitor(["e4m3fn", "nvfp4"], every=100, path="monitor.jsonl").attach(model)  # doctest: +SKIP
>>> for step, batch in enumerate(data):  # doctest: +SKIP
...     with monitor.step(step):
...         loss_fn(model(batch)).backward()
...     optimizer.step()
>>> monitor.report().html("monitor.html")  # doctest: +SKIP

Scale drift and delayed-scale misses are those of per-tensor scales that follow the observed steps: with `every=1`
exactly what delayed scaling would meet.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from narrowgauge.formats import Scheme
from narrowgauge.numerics.monitors.report import monitor_report
from narrowgauge.numerics.monitors.rows import MonitorRow, read_rows, write_rows
from narrowgauge.numerics.sweeps.measure import Quantize, measure, metric_names, quantize_exactly, summarize
from narrowgauge.numerics.sweeps.result import SweepResult
from narrowgauge.numerics.sweeps.rows import TARGET_DB, Skipped, SweepRow, TensorSummary
from narrowgauge.numerics.sweeps.run import combine
from narrowgauge.numerics.tensors.named import NamedTensor, TensorInfo, sampled
from narrowgauge.numerics.tensors.tap import ROLES, LayerFilter, LinearTap, check_roles, linear_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

MONITOR_SCHEMES = ("e4m3fn", "e5m2", "mxfp8", "nvfp4")
"""What is tried where a caller names no scheme."""
MONITOR_METRICS = (
    "sqnr_db",
    "cosine_similarity",
    "gain",
    "bias",
    "underflow",
    "overflow_clipped",
    "nan_created",
    "codes_used",
    "codes_available",
    "code_entropy_bits",
    "effective_bits",
)
MONITOR_SAMPLE = 1 << 14


@dataclass(frozen=True)
class _Seen:
    """What a hook keeps of a tensor."""

    tensor: NamedTensor
    amax: float
    rms: float


class TensorMonitor:
    """Every `every` steps, looks at the operands of every linear layer (see `LinearTap`) through `schemes`.

    It computes the same bits with and without: hooks only read, they exist only during an observed step, and no
    random generator is used. schemes: texts, as in `sweep`. roles, filter_fn(module, name): which operands of
    which layers. sample: at most so many elements of each tensor are quantised, in whole rows; amax and rms are
    of all of it. history: observations that a delayed scale looks back on. path: a JSONL file that gets a line
    for each row. quantize, seed, metrics, target_db: as in `sweep`.

    `rows` has everything since the start; `skipped` schemes that could not be measured. ValueError for `every` or
    `history` below 1, no scheme, unknown roles and metrics.
    """

    def __init__(
        self,
        schemes: Iterable[str | Scheme] = MONITOR_SCHEMES,
        *,
        every: int = 100,
        roles: Sequence[str] = ROLES,
        filter_fn: LayerFilter | None = None,
        sample: int = MONITOR_SAMPLE,
        history: int = 16,
        path: str | Path | None = None,
        quantize: Quantize = quantize_exactly,
        seed: int = 0,
        metrics: Sequence[str] | None = MONITOR_METRICS,
        target_db: float = TARGET_DB,
    ) -> None:
        for name, value in (("every", every), ("history", history), ("sample", sample)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, accepted: 1 or more")
        self.schemes, skipped = combine(schemes)
        self.skipped: dict[tuple[str, str], Skipped] = {(entry.scheme, ""): entry for entry in skipped}
        self.every, self.roles, self.filter_fn = every, check_roles(roles), filter_fn
        self.sample, self.history, self.path = sample, history, None if path is None else Path(path)
        self.quantize, self.seed, self.metrics, self.target_db = quantize, seed, metric_names(metrics), target_db
        self.rows: list[MonitorRow] = []
        self.summaries: dict[tuple[str, str], TensorSummary] = {}
        self._amax: dict[tuple[str, str], deque[float]] = {}
        self._model: nn.Module | None = None
        self._started = False

    def attach(self, model: nn.Module) -> Self:
        """Looks at `model` from now on. ValueError where it has no linear layer that `filter_fn` accepts."""
        linear_layers(model, self.filter_fn)
        self._model = model
        return self

    def start(self, first: int) -> None:
        """Forgets observations of the step `first` and later ones, which are to come (again): a run that begins at
        0 begins a new file, a resumed one keeps the lines before `first`, and `rows` has them too.

        ValueError where the file at `path` is no monitor's.
        """
        if self.path is not None:
            kept = read_rows(self.path) if first > 0 and self.path.exists() else []
            self.rows = [row for row in kept if row.step < first]
            write_rows(self.path, self.rows, append=False)
        else:
            self.rows = [row for row in self.rows if row.step < first]
        self._amax = {}
        for key, amax in {(row.step, row.layer, row.role): row.amax for row in self.rows}.items():
            self._remember(key[1:], amax)
        self._started = True

    def is_due(self, step: int) -> bool:
        """Whether `step` is observed."""
        return step % self.every == 0

    @contextmanager
    def step(self, step: int) -> Iterator[list[MonitorRow]]:
        """Around forward and backward of a step, counted from 0; gives a list that has the step's rows afterwards,
        none if it is not observed. A step that fails is measured as far as it came, and fails as it would.

        RuntimeError without a model.
        """
        rows: list[MonitorRow] = []
        if not self.is_due(step):
            yield rows
            return
        if self._model is None:
            raise RuntimeError("TensorMonitor.step: there is no model; call attach(model) first")
        if not self._started:
            self.start(step)
        seen: dict[tuple[str, str], _Seen] = {}

        def see(layer: str, role: str, x: Tensor) -> None:
            if x.numel():
                seen[layer, role] = self._look(layer, role, x)

        try:
            with LinearTap(linear_layers(self._model, self.filter_fn), self.roles, see):
                yield rows
        finally:
            for (layer, role), entry in seen.items():
                rows += self._measure(step, layer, role, entry)
            self._keep(rows)

    def report(self, title: str = "Number formats during training") -> SweepResult:
        """The rows as a `SweepResult`: tensors LAYER.weight, .activation, .gradient, means over the steps (SQNR: of
        the noise), curves over the steps. ValueError before anything was observed."""
        return monitor_report(self, title)

    def _look(self, layer: str, role: str, x: Tensor) -> _Seen:
        """amax and rms of all of `x`, a sample of its rows."""
        wide = x.float()
        amax = wide.abs().amax()
        # In units of amax, which neither overflows nor vanishes; 0/0 is the tensor of zeros.
        second = (wide / amax.clamp(min=2.0**-126)).square().mean()
        largest, mean = (float(value) for value in (amax, second))
        info = TensorInfo(f"{layer}.{role}", role, tuple(x.shape), str(x.dtype).removeprefix("torch."))
        return _Seen(sampled(x, info, self.sample), largest, largest * math.sqrt(mean))

    def _measure(self, step: int, layer: str, role: str, seen: _Seen) -> list[MonitorRow]:
        past = self._amax.get((layer, role), ())
        drift = _log2_ratio(seen.amax, past[-1]) if past else None
        miss = _ratio(seen.amax, max(past)) if past else None
        self.summaries[layer, role] = summarize(seen.tensor)
        rows = []
        for scheme in self.schemes:
            row = measure(seen.tensor, scheme, self.quantize, self.seed, self.metrics)
            if isinstance(row, SweepRow):
                facts = (seen.amax, seen.rms, drift, miss)
                rows.append(MonitorRow(step, layer, role, row.scheme, *facts, row.bits, row.metrics))
            else:
                self.skipped[row.scheme, row.tensor] = row
        self._remember((layer, role), seen.amax)
        return rows

    def _remember(self, key: tuple[str, str], amax: float) -> None:
        if math.isfinite(amax):  # delayed scaling keeps its scale over a step that is not finite
            self._amax.setdefault(key, deque(maxlen=self.history)).append(amax)

    def _keep(self, rows: list[MonitorRow]) -> None:
        self.rows += rows
        if self.path is not None:
            write_rows(self.path, rows, append=True)


def _ratio(value: float, base: float) -> float:
    if base == 0.0:
        return math.nan if value == 0.0 or math.isnan(value) else math.inf
    return value / base


def _log2_ratio(value: float, base: float) -> float:
    ratio = _ratio(value, base)
    return -math.inf if ratio == 0.0 else math.log2(ratio)
