"""Drawing for reports: an SVG canvas whose colours are the page's, axes, markers, labels that keep apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TypeAlias

COLOURS = 10
"""Colours that the page's style sheet defines, --c0 to --c9."""
MARKERS = 4
CHARACTER = 6.3
"""Width of a character of 11 px text, on the safe side."""
BOLD = 7.1
"""The same of names, which are bold."""
LINE = 12.0
MARGIN = 8.0
"""From a point to its label."""

Scale: TypeAlias = Callable[[float], float]
Box: TypeAlias = tuple[float, float, float, float]


def number(value: float) -> str:
    """A coordinate in few characters."""
    return f"{value:.1f}".removesuffix(".0")


def shorten(text: str, limit: int) -> str:
    """`text` in at most `limit` characters, the middle left out: names of layers differ at both ends."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) * 2 // 3
    return f"{text[: limit - 1 - tail]}…{text[-tail:]}"


def colour(index: int) -> str:
    """The colour of the `index`-th thing."""
    return f"var(--c{index % COLOURS})"


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """The map of [low, high] to the pixels [start, end]."""
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


@dataclass
class Canvas:
    """A drawing of `width` × `height` pixels that scales with the page. `label` is read out in its place."""

    width: float
    height: float
    label: str
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str = "axis", stroke: str = "") -> None:
        coordinates = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
        self.parts.append(f'<line class="{css}" {coordinates}{_style("stroke", stroke)}/>')

    def rect(self, x: float, y: float, width: float, height: float, fill: str, opacity: float = 1.0) -> None:
        size = f'width="{number(max(width, 0.5))}" height="{number(height)}"'
        self.parts.append(f'<rect x="{number(x)}" y="{number(y)}" {size} opacity="{opacity:g}"{_style("fill", fill)}/>')

    def polyline(self, points: Sequence[tuple[float, float]], stroke: str, dashed: bool = False) -> None:
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        dash = ' stroke-dasharray="5 3"' if dashed else ""
        self.parts.append(f'<polyline class="curve" points="{path}"{dash}{_style("stroke", stroke)}/>')

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", css: str = "", fill: str = "", title: str = ""
    ) -> None:
        tip = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(
            f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}" class="{css}"{_style("fill", fill)}>'
            f"{tip}{escape(text)}</text>"
        )

    def marker(self, x: float, y: float, index: int, title: str, size: float = 4.5) -> None:
        """A mark whose colour and shape tell the `index`-th thing from its neighbours."""
        shapes = (
            [(-1, 0), (-0.7, -0.7), (0, -1), (0.7, -0.7), (1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7)],
            [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
            [(0, -1.3), (1.1, 0), (0, 1.3), (-1.1, 0)],
        )
        points = " ".join(f"{number(x + size * a)},{number(y + size * b)}" for a, b in shapes[index % MARKERS])
        tip = f"<title>{escape(title)}</title>"
        self.parts.append(f'<polygon class="mark" points="{points}"{_style("fill", colour(index))}>{tip}</polygon>')

    def x_axis(self, scale: Scale, values: Sequence[float], y: float, top: float, label: str) -> None:
        """Grid lines from `top` down to `y`, numbers below, and what they are."""
        for value in values:
            self.line(scale(value), top, scale(value), y, "grid")
            self.text(scale(value), y + 15, f"{value:g}", "middle", "tick")
        middle = (scale(values[0]) + scale(values[-1])) / 2
        self.text(middle, y + 31, label, "middle", "label")

    def y_axis(self, scale: Scale, values: Sequence[float], x: float, right: float, label: str) -> None:
        """Grid lines from `x` to `right`, numbers at their left, and what they are above."""
        for value in values:
            self.line(x, scale(value), right, scale(value), "grid")
            self.text(x - 6, scale(value) + 4, f"{value:g}", "end", "tick")
        self.text(x - 6 - CHARACTER * 3, 11, label, "start", "label")

    def svg(self) -> str:
        size = f'viewBox="0 0 {number(self.width)} {number(self.height)}" style="max-width:{number(self.width)}px"'
        return f'<svg role="img" aria-label="{escape(self.label)}" {size}>{"".join(self.parts)}</svg>'


def _style(name: str, value: str) -> str:
    return f' style="{name}:{value}"' if value else ""


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _free_place(x: float, y: float, width: float, taken: Sequence[Box], area: Box) -> tuple[float, Box, str] | None:
    """(shift down, box, anchor) of a label of `width` beside x, y, as near as it goes; None where all is taken."""
    for shift in (0.0, *(sign * step * 6.0 for step in range(1, 40) for sign in (-1.0, 1.0))):
        for anchor, left in (("start", x + MARGIN), ("end", x - MARGIN - width)):
            box = (left, y + shift - LINE / 2, left + width, y + shift + LINE / 2)
            inside = box[0] >= area[0] and box[2] <= area[2] and box[1] >= area[1] and box[3] <= area[3]
            if inside and not any(_overlap(box, other) for other in taken):
                return shift, box, anchor
    return None


def place_labels(canvas: Canvas, points: Sequence[tuple[float, float, str, int]], area: Box) -> None:
    """Writes a label beside each point (x, y, text, colour index) so that no label lies on another or on a
    point; where it had to move away a thin line leads to it."""
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y, _, _ in points]
    for x, y, text, index in sorted(points, key=lambda point: point[1]):
        place = _free_place(x, y, len(text) * BOLD, taken, area)
        if place is None:
            continue  # the point has its title, and the tables its name
        shift, box, anchor = place
        taken.append(box)
        near = box[0] if anchor == "start" else box[2]
        if abs(shift) > LINE / 2:
            canvas.line(x, y, near + (-2 if anchor == "start" else 2), y + shift, "leader", colour(index))
        canvas.text(near, y + shift + 4, text, anchor, "name", colour(index))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to `wanted` as it takes for neighbours to be `gap` apart, within [low, high]."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, (high - low) / max(len(order) - 1, 1))
    placed = list(wanted)
    last = -math.inf
    for index in order:
        placed[index] = last = max(wanted[index], last + gap, low)
    limit = high
    for index in reversed(order):
        placed[index] = limit = min(placed[index], limit)
        limit -= gap
    return placed
