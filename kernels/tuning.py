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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from narrowgauge.kernels._triton import HAS_TRITON, triton

TRIED = 8
"""Candidates that are timed, the best by the model."""
HOPELESS = 3.0
"""How many times slower than the best, by the model, a candidate may be to be timed."""

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


_decisions: dict[tuple[str, str, str], Choice] = {}


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
    return list(_decisions.values())


def choose(
    op: str,
    key: str,
    candidates: Sequence[C],
    seconds: Callable[[C], float],
    run: Callable[[C], object],
    device: torch.device,
) -> C:
    """The configuration for calls of `op` whose shapes are of class `key`: the one that was measured on this kind of
    device, else the best by the model.

    candidates: named tuples of plain numbers and texts. seconds: the model's time of one, inf where it cannot run. run:
    one call with it, on inputs that it leaves as they are. ValueError where no candidate can run.
    """
    place = (device_name(device), op, key)
    known = _decisions.get(place)
    if known is not None and (known.how == "measured" or not _state["measuring"] or device.type != "cuda"):
        for candidate in candidates:
            if _plain(candidate) == known.config:
                return candidate
    ranked = sorted(candidates, key=seconds)  # stable: of equals the first
    if not ranked or seconds(ranked[0]) == float("inf"):
        raise ValueError(f"candidates: none of {len(ranked)} configurations of {op} can run {key} on {place[0]}")
    chosen = _kept(place, ranked)
    if chosen is None and _state["measuring"] and device.type == "cuda":
        limit = HOPELESS * seconds(ranked[0])
        chosen = _fastest(place, [c for c in ranked[:TRIED] if seconds(c) <= limit], run)
    if chosen is None:
        chosen = ranked[0]
        _decisions[place] = Choice(op, key, _plain(chosen), "model", None)
    return chosen


def _plain(config: Any) -> dict[str, Any]:
    fields: dict[str, Any] = config._asdict()
    return fields


def _kept(place: tuple[str, str, str], candidates: Sequence[C]) -> C | None:
    """The candidate that the device's file names; None where it names none, or one that is no candidate any more."""
    entry = _table(place[0]).get(_entry(place))
    for candidate in candidates if entry is not None else ():
        if entry is not None and _plain(candidate) == entry["config"]:
            _decisions[place] = Choice(place[1], place[2], entry["config"], "measured", entry["seconds"])
            return candidate
    return None


def _fastest(place: tuple[str, str, str], candidates: Sequence[C], run: Callable[[C], object]) -> C:
    """Times the candidates and keeps the fastest, in the file too."""
    times = [median_seconds(partial(run, candidate)) for candidate in candidates]
    best = times.index(min(times))
    config = _plain(candidates[best])
    _decisions[place] = Choice(place[1], place[2], config, "measured", times[best])
    table = _read(table_path(place[0]))  # as it is now: another process may have added to it
    table[_entry(place)] = {"config": config, "seconds": times[best]}
    _write(table_path(place[0]), table)
    _table.cache_clear()
    return candidates[best]


def median_seconds(call: Callable[[], object], repetitions: int = 9) -> float:
    """Median time of a call on the current CUDA device, compiled and warmed up by two calls before."""
    for _ in range(2):
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repetitions)]
    for start, stop in events:
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


def _entry(place: tuple[str, str, str]) -> str:
    return f"{place[1]}: {place[2]}"


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
