"""Which launch configuration a kernel takes: the best by a model, or the fastest that was measured on this device.

A kernel hands over its candidates, what a model says each takes, and how to run one. Without measurements the model
decides: a pure function, the same on every machine. Inside `measuring()` the best by the model are timed, once per
device and key (a class of shapes), and the fastest is kept in a file that later processes read:

    $XDG_CACHE_HOME/narrowgauge/tuning/DEVICE-triton-VERSION.json    (~/.cache where the variable is not set)

Kernels that write their inputs must not ask: a candidate that is timed runs many times. Configurations group partial
sums in different ways, so results of two of them may differ within the operator's bound.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from narrowgauge.kernels._triton import HAS_TRITON, OUT_OF_RESOURCES, triton

TRIED = 8
"""Candidates that are timed, the best by the model."""
HOPELESS = 3.0
"""How many times slower than the best, by the model, a candidate may be to be timed."""
FLUSH_BYTES = 256 << 20
"""More than the last-level cache of any GPU: writing it leaves nothing of the operands in the cache."""
FLUSHES = 4
"""How often that is written before a call that is timed: long enough for the host to hand over the call meanwhile, so
that no time passes between its kernels but on the device."""

C = TypeVar("C", bound=tuple[Any, ...])
Table = dict[str, dict[str, Any]]

_state = {"measuring": False}


class Choice(NamedTuple):
    """A decision as `decisions()` lists it. how: "model" or "measured"; seconds: what was measured, else None."""

    op: str
    key: str
    config: dict[str, Any]
    how: str
    seconds: float | None


_decisions: dict[tuple[torch.device, str, str], tuple[Any, Choice]] = {}
"""(device, op, key) → the configuration, and what `decisions()` says of it."""


@contextmanager
def measuring() -> Iterator[None]:
    """Within it, kernels on a GPU that meet a class of shapes for the first time time their candidates."""
    before, _state["measuring"] = _state["measuring"], True
    try:
        yield
    finally:
        _state["measuring"] = before


def decisions() -> list[Choice]:
    """Every decision of this process, in the order of first use."""
    return [choice for _, choice in _decisions.values()]


def choose(
    op: str,
    key: str,
    candidates: Callable[[], Iterable[C]],
    seconds: Callable[[C], float],
    run: Callable[[C], object],
    device: torch.device,
) -> C:
    """The configuration for calls of `op` whose shapes are of class `key`: the one that was measured on this kind of
    device, else the best by the model. A decision that was taken is looked up, and nothing else is called.

    candidates: gives named tuples of plain numbers and texts, for one key always the same. seconds: the model's time of
    one, inf where it cannot run. run: one call with it, on inputs that it leaves as they are. Nothing is measured while
    a CUDA graph is captured. ValueError where no candidate can run.
    """
    known = _decisions.get((device, op, key))
    if known is not None and (known[1].how == "measured" or not _measures(device)):
        return known[0]
    ranked = sorted(candidates(), key=seconds)  # stable: of equals the first
    name = device_name(device)
    if not ranked or seconds(ranked[0]) == float("inf"):
        raise ValueError(f"candidates: none of {len(ranked)} configurations of {op} can run {key} on {name}")
    found = _kept(name, op, key, ranked)
    if found is None and _measures(device):
        limit = HOPELESS * seconds(ranked[0])
        found = _fastest(name, op, key, [c for c in ranked[:TRIED] if seconds(c) <= limit], run)
    if found is None:
        found = ranked[0], Choice(op, key, _plain(ranked[0]), "model", None)
    _decisions[device, op, key] = found
    return found[0]


def _measures(device: torch.device) -> bool:
    return _state["measuring"] and device.type == "cuda" and not _is_capturing()


def _is_capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


def _plain(config: Any) -> dict[str, Any]:
    fields: dict[str, Any] = config._asdict()
    return fields


def _kept(name: str, op: str, key: str, candidates: Sequence[C]) -> tuple[C, Choice] | None:
    """The candidate that the device's file names; None where it names none, or one that is no candidate any more."""
    entry = _table(name).get(_entry(op, key))
    if entry is None:
        return None
    for candidate in candidates:
        if _plain(candidate) == entry["config"]:
            return candidate, Choice(op, key, entry["config"], "measured", entry["seconds"])
    return None


def _fastest(
    name: str, op: str, key: str, candidates: Sequence[C], run: Callable[[C], object]
) -> tuple[C, Choice]:  # fmt: skip
    """Times the candidates and keeps the fastest, in the file too."""
    times = [_time(partial(run, candidate)) for candidate in candidates]
    best = times.index(min(times))
    if times[best] == float("inf"):
        raise ValueError(f"candidates: none of {len(times)} configurations of {op} that were tried fits {name}: {key}")
    config = _plain(candidates[best])
    table = _read(table_path(name))  # as it is now: another process may have added to it
    table[_entry(op, key)] = {"config": config, "seconds": times[best]}
    _write(table_path(name), table)
    _table.cache_clear()
    return candidates[best], Choice(op, key, config, "measured", times[best])


def _time(call: Callable[[], object]) -> float:
    """Seconds of a call; inf where the device has not the shared memory or registers that it takes."""
    try:
        return median_seconds(call)
    except OUT_OF_RESOURCES:
        return float("inf")


def median_seconds(call: Callable[[], object], repetitions: int = 9) -> float:
    """Median time of a call on the current CUDA device, compiled and warmed up by two calls before, operands in memory
    and not in the caches."""
    for _ in range(2):
        call()
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repetitions)]
    for start, stop in events:
        for _ in range(FLUSHES):
            flush.zero_()
        start.record()
        call()
        stop.record()
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(stop) for start, stop in events)
    return float(times[repetitions // 2]) / 1e3


def device_name(device: torch.device) -> str:
    """What measurements of a device hold for: its model and Triton's version; "model" where nothing is measured."""
    if device.type != "cuda" or not HAS_TRITON:
        return "model"
    name = f"{torch.cuda.get_device_name(device)}-triton-{triton.__version__}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)


def table_path(name: str) -> Path:
    """Where the measurements of a device are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "narrowgauge" / "tuning" / f"{name}.json"


def _entry(op: str, key: str) -> str:
    return f"{op}: {key}"


@cache
def _table(name: str) -> Table:
    return {} if name == "model" else _read(table_path(name))


def _read(path: Path) -> Table:
    """What a file says; nothing where there is none or it is no such file (it is then written anew)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        key: entry
        for key, entry in content.items()
        if isinstance(entry, dict) and isinstance(entry.get("config"), dict) and isinstance(entry.get("seconds"), float)
    }


def _write(path: Path, table: Table) -> None:
    """The whole file under another name, then renamed: several processes may do this at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    unfinished.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(path)
