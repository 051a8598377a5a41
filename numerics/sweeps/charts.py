"""The charts of a sweep's report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import fmean

from narrowgauge.numerics.sweeps.result import SweepResult
from narrowgauge.numerics.sweeps.rows import SchemeSummary, Series, TensorSummary
from narrowgauge.numerics.sweeps.svg import (
    BOLD,
    CHARACTER,
    MARKERS,
    Canvas,
    colour,
    linear,
    place_labels,
    shorten,
    spread,
    ticks,
)
from narrowgauge.numerics.sweeps.text import decibels, percent, schemes_by_bits

WIDTH = 860.0
TOP_DB, BOTTOM_DB = 110.0, -10.0
"""What lies beyond, exact copies among it, is drawn at the border."""
BIT_TICKS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 64.0)
BINADES = 40
"""Binades below amax that a histogram shows."""
NAME = 40
STRIP_ROWS = 40


def drawn(sqnr_db: float) -> float:
    """An SQNR within the axes; NaN at the bottom."""
    return BOTTOM_DB if math.isnan(sqnr_db) else min(max(sqnr_db, BOTTOM_DB), TOP_DB)


def _range(values: Sequence[float], room: float = 0.06) -> tuple[float, float]:
    low, high = min(values), max(values)
    extra = (high - low) * room or 1.0
    return low - extra, high + extra


def pareto(result: SweepResult) -> str:
    """Mean SQNR over the tensors against bits per value, with its range; the best of their bits joined."""
    schemes = schemes_by_bits(result)
    points = []
    for index, scheme in enumerate(schemes):
        values = [drawn(row.sqnr_db) for row in result.rows if row.scheme == scheme]
        points.append((result.bits(scheme), fmean(values), min(values), max(values), scheme, index))
    left, right, top, bottom = 48.0, WIDTH - 12, 24.0, 400.0
    low, high = _range([value for point in points for value in point[2:4]])
    first, last = _range([math.log2(point[0]) for point in points], 0.1)
    across, up = linear(first, last, left, right), linear(low, high, bottom, top)
    canvas = Canvas(WIDTH, bottom + 40, "Signal to quantisation noise ratio against bits per value, by scheme")
    shown = [bits for bits in BIT_TICKS if first <= math.log2(bits) <= last] or [points[0][0]]
    canvas.x_axis(
        lambda bits: across(math.log2(bits)), shown, bottom, top, "bits per value, scales included (logarithmic)"
    )
    canvas.y_axis(up, ticks(low, high), left, right, "SQNR, dB")
    front, reached = [], -math.inf
    for bits, mean, *_ in sorted(points, key=lambda point: (point[0], -point[1])):
        if mean > reached:
            reached = mean
            front.append((across(math.log2(bits)), up(mean)))
    canvas.polyline(front, "var(--muted)", dashed=True)
    for bits, mean, lowest, highest, scheme, index in points:
        x = across(math.log2(bits))
        canvas.line(x, up(lowest), x, up(highest), "span", colour(index))
        title = f"{scheme}: {bits:.2f} bits, mean {mean:.1f} dB, {lowest:.1f} to {highest:.1f} dB"
        canvas.marker(x, up(mean), index, title)
    labels = [(across(math.log2(point[0])), up(point[1]), point[4], point[5]) for point in points]
    place_labels(canvas, labels, (left, top, right, bottom))
    return canvas.svg()


def legend(schemes: Sequence[str]) -> str:
    """Marks and names of the schemes, as a list that wraps."""
    items = []
    for index, scheme in enumerate(schemes):
        canvas = Canvas(12, 12, scheme)
        canvas.marker(6, 6, index, scheme)
        items.append(f'<li><span class="key">{canvas.svg()}</span>{escape(scheme)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def strip(result: SweepResult) -> str:
    """A line per tensor, hardest first, and on it a mark per scheme at its SQNR."""
    schemes, names = schemes_by_bits(result), result.worst_first()[:STRIP_ROWS]
    chosen = [row for row in result.rows if row.tensor in set(names)]
    left = 16 + CHARACTER * min(NAME, max(len(name) for name in names))
    right, top, step = WIDTH - 16, 14.0, 20.0
    bottom = top + step * len(names)
    low, high = _range([drawn(row.sqnr_db) for row in chosen])
    across = linear(low, high, left, right)
    canvas = Canvas(WIDTH, bottom + 40, "SQNR of every scheme, tensor by tensor")
    canvas.x_axis(across, ticks(low, high, 8), bottom, top - 6, "SQNR, dB")
    if low < result.target_db < high:
        canvas.line(across(result.target_db), top - 6, across(result.target_db), bottom, "target")
    for place, name in enumerate(names):
        y = top + step * (place + 0.5)
        canvas.text(left - 8, y + 4, shorten(name, NAME), "end", "tick", title=name)
        canvas.line(left, y, right, y, "grid")
        for index, scheme in enumerate(schemes):
            row = result.row(name, scheme)
            if row is not None:
                x = across(drawn(row.sqnr_db))
                canvas.marker(x, y, index, f"{name}, {scheme}: {decibels(row.sqnr_db)} dB", 4.0)
    return canvas.svg()


def curves(series: Series, order: Sequence[str]) -> str:
    """Lines over a common abscissa, named at their ends; empty where no curve has a number. `order`: names that
    have a colour of their own."""
    names = [name for name in series.curves if not all(map(math.isnan, series.curves[name]))]
    if not names:
        return ""
    text_width = 14 + BOLD * max(len(name) for name in names)
    left, right, top, bottom = 48.0, WIDTH - text_width, 24.0, 360.0
    values = [drawn(value) for name in names for value in series.curves[name] if not math.isnan(value)]
    low, high = _range(values)
    across = linear(series.x[0], series.x[-1], left + 6, right - 6)
    up = linear(low, high, bottom, top)
    canvas = Canvas(WIDTH, bottom + 40, f"{series.title}: {series.y_label} against {series.x_label}")
    canvas.x_axis(across, ticks(series.x[0], series.x[-1]), bottom, top, series.x_label)
    canvas.y_axis(up, ticks(low, high), left, right, series.y_label)
    ends = []
    for place, name in enumerate(names):
        index = order.index(name) if name in order else place
        known = [pair for pair in zip(series.x, series.curves[name], strict=True) if not math.isnan(pair[1])]
        points = [(across(x), up(drawn(value))) for x, value in known]
        canvas.polyline(points, colour(index), dashed=index % (2 * MARKERS) >= MARKERS)
        for (x, y), (at, value) in zip(points, known, strict=True):
            canvas.marker(x, y, index, f"{name} at {at:g}: {decibels(value)}", 3.2)
        ends.append((points[-1][1], name, index, points[-1][0]))
    for y, (end, name, index, x) in zip(spread([end[0] for end in ends], 13.0, top, bottom), ends, strict=True):
        canvas.line(x + 5, end, right + 4, y, "leader", colour(index))
        canvas.text(right + 7, y + 4, name, "start", "name", colour(index))
    return canvas.svg()


def histogram(tensor: TensorSummary, formats: Sequence[SchemeSummary]) -> str:
    """Elements per half binade of |x|, and below it what each format covers if its largest value is at amax."""
    left, right, top, base = 84.0, 352.0, 12.0, 92.0
    row = 13.0
    height = base + 6 + row * len(formats) + 34
    canvas = Canvas(right + 8, height, f"Magnitudes of {tensor.info.name} and the ranges of the formats")
    last = math.log2(tensor.amax) if tensor.amax > 0.0 else 0.0
    end = tensor.first_bin / 2 + len(tensor.histogram) / 2
    start = max(_first_shown(tensor), end - BINADES) - 1
    across = linear(start, end, left, right)
    peak = max(tensor.histogram, default=1)
    for index, count in enumerate(tensor.histogram):
        x = (tensor.first_bin + index) / 2
        if count and x >= start:
            tall = (base - top) * count / peak
            canvas.rect(across(x), base - tall, across(x + 0.5) - across(x) - 0.4, tall, "var(--bar)")
    canvas.text(left - 6, top + 8, f"{percent(peak / max(tensor.count, 1))} %", "end", "tick")
    canvas.line(left, base, right, base)
    bottom = base + 6 + row * len(formats)
    canvas.x_axis(across, ticks(math.ceil(start), end, 7), bottom, base, "log2 |x|")
    if tensor.rms > 0.0 and math.log2(tensor.rms) >= start:
        x = across(math.log2(tensor.rms))
        canvas.line(x, top, x, bottom, "target")
        is_far = x > right - 4 * CHARACTER
        canvas.text(x - 3 if is_far else x + 3, top - 2, "rms", "end" if is_far else "start", "tick")
    for place, fmt in enumerate(formats):
        y = base + 6 + row * place
        canvas.text(left - 6, y + 9, shorten(fmt.element, 13), "end", "tick", title=fmt.element)
        for smallest, opacity in ((fmt.smallest, 0.35), (fmt.smallest_normal, 0.9)):
            x = across(min(max(last - math.log2(fmt.max / smallest), start), end))
            canvas.rect(x, y + 1.5, across(last) - x, row - 4, colour(place), opacity)
    return canvas.svg()


def _first_shown(tensor: TensorSummary) -> float:
    """Where a histogram begins, log2 |x|: what lies below is one element in a thousand, and 12 binades are shown."""
    seen, allowed = 0, sum(tensor.histogram) / 1000
    for index, count in enumerate(tensor.histogram):
        seen += count
        if seen > allowed:
            return min(tensor.first_bin + index, tensor.first_bin + len(tensor.histogram) - 24) / 2
    return tensor.first_bin / 2


def distinct_elements(schemes: Sequence[SchemeSummary]) -> list[SchemeSummary]:
    """One scheme for each element format, the narrower ones first."""
    found: dict[str, SchemeSummary] = {}
    for scheme in schemes:
        found.setdefault(scheme.element, scheme)
    return sorted(found.values(), key=lambda scheme: (scheme.element_bits, scheme.element))
