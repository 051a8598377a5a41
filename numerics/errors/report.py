"""`compare`: everything that can be said of the error between a tensor and its reference, as one record.

With r the reference, a the actual values and e = a - r, over the elements whose reference is finite (the others have no
error that could be measured, but count in `count`):

    sqnr_db = 10 log10(Σr² / Σe²)     nmse = Σe² / Σr²     bias = mean(e) / rms(r)     gain = Σra / Σr²

and so on as in `narrowgauge.numerics.metrics`, special cases included: a NaN or an infinity that was created is not
left out, it makes these figures NaN or infinite, and `nan_created` and `inf_created` say how often it happened.

ULP: |e| / (spacing · scale), the spacing being that of the element format at the exponent of x / scale, between the
smallest subnormal and that of the last binade. KL: in nats, of histograms with one bin for each binade and sign, so
that it measures what moves between binades (underflow, clipping, a wrong scale) and not that quantised values are
discrete. Effective bits: SQNR / (20 log10 2), the rate at which a Gaussian source has this distortion."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowgauge.numerics.errors.histograms import Histograms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class ErrorReport:
    """What `compare` found. Rates are shares of `count`.

    underflow: rate of actual 0 where the reference is not. overflow_clipped: rate of references beyond the format's
    range at their group's scale. nan_created, inf_created: elements that became NaN or infinite from a finite
    reference. relative_p50, p90, p99, max: of |e| / |r| (quantiles where r is not 0). ulp_over_half: share of elements
    that are further off than nearest rounding allows (0.5 ulp; 1 ulp for stochastic schemes), the float32 roundings of
    the scaling allowed for.

    The fields from `overflow_clipped` on that depend on a format are None without a scheme (those of codes also above
    16 bits). blocks: how many scaling groups there are; blocks_clipped: those with a clipped element; blocks_zeroed:
    those that were not zero and came back as zeros. codes_used of codes_available: distinct finite codes.
    amax_over_rms: mean over the groups that are finite and not zero.
    """

    count: int
    sqnr_db: float
    nmse: float
    bias: float
    gain: float
    cosine_similarity: float
    max_abs_error: float
    max_relative_error: float
    relative_p50: float
    relative_p90: float
    relative_p99: float
    kl_forward: float
    kl_backward: float
    underflow: float
    overflow_clipped: float | None
    nan_created: int
    inf_created: int
    ulp_max: float | None = None
    ulp_mean: float | None = None
    ulp_over_half: float | None = None
    blocks: int | None = None
    blocks_clipped: int | None = None
    blocks_zeroed: int | None = None
    codes_used: int | None = None
    codes_available: int | None = None
    code_entropy_bits: float | None = None
    effective_bits: float | None = None
    amax_over_rms: float | None = None
    scheme: str | None = None
    histograms: Histograms | None = field(default=None, repr=False)

    def table(self) -> str:
        """The figures as aligned text, one a line; those that are None are left out."""
        rows = [(name, text(getattr(self, name))) for name in _FIGURES if getattr(self, name) is not None]
        width = max(len(name) for name, _ in rows)
        title = [f"{'scheme':<{width}}  {self.scheme}"] if self.scheme else []
        return "\n".join(title + [f"{name:<{width}}  {value}" for name, value in rows])

    def __str__(self) -> str:
        return self.table()

    def to_dict(self, *, histograms: bool = True) -> dict[str, Any]:
        """Every field by name, as strict JSON has it: numbers that are not finite are the texts `NaN`, `Infinity` and
        `-Infinity`, missing ones None. `histograms=False` leaves the data of the figure out."""
        content = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "histograms"}
        if histograms and self.histograms is not None:
            content["histograms"] = self.histograms.to_dict()
        return {key: _strict(value) for key, value in content.items()}

    def to_json(self, *, histograms: bool = True) -> str:
        """`to_dict` as JSON text that any parser reads."""
        return json.dumps(self.to_dict(histograms=histograms), allow_nan=False)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ErrorReport:
        """The inverse of `to_dict`. ValueError for names that are no field and for missing ones."""
        known = {item.name for item in fields(cls)}
        required = set(_FIGURES[: _FIGURES.index("ulp_max")])
        if unknown := sorted(set(content) - known):
            raise ValueError(f"content: got unknown names {', '.join(unknown)}, accepted: the fields of ErrorReport")
        if missing := sorted(required - set(content)):
            raise ValueError(f"content: {', '.join(missing)} missing, accepted: what to_dict gave")
        values = {key: _loose(value, key) for key, value in content.items()}
        if values.get("histograms") is not None:
            values["histograms"] = Histograms.from_dict(values["histograms"])
        return cls(**values)

    def draw(self, path: str | Path | None = None) -> Figure:
        """A figure of four panels: error against value, magnitudes with what under- and overflowed, code occupancy,
        relative error against magnitude; written to `path` as PNG if one is given.

        Needs matplotlib (ImportError says how to get it); ValueError for a report without histograms.
        """
        from narrowgauge.numerics.errors.draw import draw_report

        return draw_report(self, path)


_FIGURES = tuple(item.name for item in fields(ErrorReport) if item.name not in ("scheme", "histograms"))


def text(value: float | int | None) -> str:
    """A figure in at most five significant digits, counts in full."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, list | tuple) else value


def _loose(value: Any, key: str = "") -> Any:
    if key == "scheme":
        return value
    if isinstance(value, str):
        if value not in _NON_FINITE:
            raise ValueError(f"{key}: got {value!r}, accepted: numbers, {', '.join(_NON_FINITE)}")
        return _NON_FINITE[value]
    if isinstance(value, Mapping):
        return {name: _loose(item, name) for name, item in value.items()}
    return [_loose(item, key) for item in value] if isinstance(value, list) else value
