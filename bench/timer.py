"""Timing of competitors in turn: A B C A B C, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Call = Callable[[], object]

MIN_REPETITIONS = 9
FLUSH_BYTES = 256 << 20
"""More than the last-level cache of any GPU: writing it leaves nothing of the operands in the cache."""
FLUSHES = 4
"""How often it is written before a call: long enough for the host to hand over the call meanwhile, whose time is then
that of the device."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call over `repetitions` measurements, each the mean of `calls` calls in a row.

    low, high: first and third quartile. best: the shortest measurement.
    """

    median: float
    low: float
    high: float
    best: float
    repetitions: int
    calls: int

    @property
    def spread(self) -> float:
        """The quartiles' distance as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def summarize(seconds: list[float], calls: int = 1) -> Timing:
    """The `Timing` of measurements; ValueError for fewer than two."""
    if len(seconds) < 2:
        raise ValueError(f"seconds: expected at least 2 measurements, got {len(seconds)}")
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, low, high, min(seconds), len(seconds), calls)


def time_interleaved(
    competitors: Mapping[str, Call],
    *,
    device: torch.device | str = "cpu",
    repetitions: int = 15,
    warmup: int = 2,
    min_seconds: float = 0.005,
) -> dict[str, Timing]:
    """Timing of every competitor, measured in turn.

    On a CPU a measurement repeats a call until it lasts about `min_seconds`; on CUDA it is one call between two events,
    after the caches were overwritten. `warmup` calls of each come first and are not counted (compilation, first
    touches). Raises ValueError for fewer than 9 repetitions, no competitor or a negative warm-up.
    """
    if not competitors:
        raise ValueError("competitors: expected at least one")
    if repetitions < MIN_REPETITIONS:
        raise ValueError(f"repetitions: a median with a spread takes {MIN_REPETITIONS} or more, got {repetitions}")
    if warmup < 0:
        raise ValueError(f"warmup: expected 0 or more, got {warmup}")
    place = torch.device(device)
    for call in competitors.values():
        for _ in range(warmup):
            call()
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=place) if place.type == "cuda" else None
    counts = dict.fromkeys(competitors, 1)
    if flush is None:
        counts = {name: _calls_for(call, min_seconds) for name, call in competitors.items()}
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(repetitions):
        for name, call in competitors.items():
            once = _measure_cpu(call, counts[name]) if flush is None else _measure_cuda(call, flush)
            seconds[name].append(once)
    return {name: summarize(values, counts[name]) for name, values in seconds.items()}


def _calls_for(call: Call, min_seconds: float) -> int:
    """How many calls in a row last about `min_seconds`."""
    once = _measure_cpu(call, 1)
    return max(1, round(min_seconds / once)) if once < min_seconds else 1


def _measure_cpu(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return max((time.perf_counter() - start) / count, 1e-9)


def _measure_cuda(call: Call, flush: torch.Tensor) -> float:
    with torch.cuda.device(flush.device):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(FLUSHES):
            flush.zero_()
        start.record()
        call()
        stop.record()
        stop.synchronize()
    return float(start.elapsed_time(stop)) / 1e3
