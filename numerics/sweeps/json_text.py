"""Sweeps as strict JSON and back. Numbers that are not finite are the texts Infinity, -Infinity and NaN."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from narrowgauge.numerics.sweeps.rows import SchemeSummary, Series, Skipped, SweepRow, TensorSummary
from narrowgauge.numerics.tensors.named import TensorInfo
from narrowgauge.strict_json import plain as strict_plain

KIND, VERSION = "narrowgauge-sweep", 1


def check_kind(data: Mapping[str, Any]) -> None:
    """ValueError for data of another kind or version."""
    if data.get("kind") != KIND or data.get("version") != VERSION:
        raise ValueError(
            f"data: got kind {data.get('kind')!r}, version {data.get('version')!r}; accepted: {KIND}, {VERSION}"
        )


def plain(value: Any) -> Any:
    """Records, mappings and sequences as JSON types."""
    return strict_plain(value, not_finite=json.dumps)


def fields_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `SweepResult` from its plain data. KeyError or TypeError where that is malformed."""
    return {
        "rows": tuple(SweepRow(**_numbers(row, "bits")) for row in data["rows"]),
        "tensors": tuple(_tensor_summary(entry) for entry in data["tensors"]),
        "schemes": tuple(SchemeSummary(**_numbers(entry, *_LIMITS)) for entry in data["schemes"]),
        "skipped": tuple(Skipped(**entry) for entry in data["skipped"]),
        "series": tuple(_series(entry) for entry in data["series"]),
        "seed": data["seed"],
        "target_db": float(data["target_db"]),
        "title": data["title"],
        "notes": tuple(data["notes"]),
    }


_LIMITS = ("max", "smallest_normal", "smallest")


def _numbers(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """`data` with these fields, and the metrics in it, as floats (of numbers or their texts)."""
    read = {**data, **{name: float(data[name]) for name in names}}
    if "metrics" in read:
        read["metrics"] = {key: None if item is None else float(item) for key, item in data["metrics"].items()}
    return read


def _tensor_summary(data: Mapping[str, Any]) -> TensorSummary:
    info = TensorInfo(**{**data["info"], "shape": tuple(data["info"]["shape"])})
    read = _numbers(data, "amax", "rms", "kurtosis", "zeros", "not_finite")
    return TensorSummary(**{**read, "info": info, "histogram": tuple(data["histogram"])})


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _series(data: Mapping[str, Any]) -> Series:
    curves = {name: _floats(values) for name, values in data["curves"].items()}
    return Series(**{**data, "x": _floats(data["x"]), "curves": curves})
