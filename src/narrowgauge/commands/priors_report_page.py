"""The page of `narrowgauge priors report`: table and pictures in one HTML file that loads nothing."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from narrowgauge.commands.priors_report import HEADS, cells, pooled_lines
from narrowgauge.numerics.sweeps.style import CSS
from narrowgauge.numerics.sweeps.svg import Canvas, colour, linear, shorten, ticks

if TYPE_CHECKING:
    from narrowgauge.priors.layer_report import LayerReport, ModelReport

WIDTH, HEIGHT = 300.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 34.0, 294.0, 18.0, 158.0
CURVE_POINTS = 200
NAMES = {"generalized": "generalized Gaussian", "gaussian": "Gaussian", "laplace": "Laplace"}


def page(report: ModelReport, title: str) -> str:
    """The whole page; it follows the reader's light or dark setting."""
    key = "".join(
        f'<li><span class="swatch" style="background:{colour(index)}"></span>{escape(text)}</li>'
        for index, text in enumerate(NAMES.values())
    )
    pictures = "".join(
        f"<figure><h3>{escape(shorten(layer.name, 44))}</h3>{panel(layer)}</figure>" for layer in report.layers
    )
    lines = "".join(f"<li>{escape(line)}</li>" for line in pooled_lines(report))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f'<ul class="summary">{lines}</ul>\n<h2>Layer by layer</h2><div class="scroll">{_table(report)}</div>\n'
        f'<h2>Histograms and fitted curves</h2><p class="note">log10 of the density, up to six standard deviations</p>'
        f'<ul class="legend">{key}</ul><div class="grid2">{pictures}</div></body></html>\n'
    )


def _table(report: ModelReport) -> str:
    def row(texts: tuple[str, ...], tag: str) -> str:
        made = []
        for head, text in zip(HEADS, texts, strict=True):
            flush = ' class="t"' if head.startswith("<") else ""
            made.append(f"<{tag}{flush}>{escape(text.removeprefix('<'))}</{tag}>")
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(row(cells(layer), "td") for layer in report.layers)
    return f"<table><thead>{row(HEADS, 'th')}</thead><tbody>{body}</tbody></table>"


def panel(layer: LayerReport) -> str:
    """A layer's histogram and the three densities, as SVG."""
    histogram = layer.histogram
    seen = [math.log10(value) for value in histogram.density if value > 0]
    low, high = min(seen) - 0.3, max(seen) + 0.5
    across = linear(-histogram.reach, histogram.reach, LEFT, RIGHT)
    up = linear(low, high, BOTTOM, TOP)
    canvas = Canvas(WIDTH, HEIGHT, f"Histogram of {layer.name} with three fitted densities")
    canvas.y_axis(up, ticks(low, high, 4), LEFT, RIGHT, "log10 density")
    canvas.x_axis(across, ticks(-histogram.reach, histogram.reach, 4), BOTTOM, TOP, "")
    width = (RIGHT - LEFT) / len(histogram.density)
    for index, value in enumerate(histogram.density):
        if value > 0:
            top = up(math.log10(value))
            canvas.rect(LEFT + index * width, top, width, BOTTOM - top, "var(--bar)", 0.45)
    x = np.linspace(-histogram.reach, histogram.reach, CURVE_POINTS)
    for index, name in enumerate(NAMES):
        heights = layer.models.families[name].prior.log_pdf(x) / math.log(10)
        # Curves leave the picture at its borders.
        points = [(across(a), up(min(max(b, low), high))) for a, b in zip(x.tolist(), heights.tolist(), strict=True)]
        canvas.polyline(points, colour(index), dashed=index > 0)
    canvas.text(RIGHT, HEIGHT - 4, f"shape {layer.prior.shape:.2f}, KL {layer.models.fitted.kl:.4f} bits", "end")
    return canvas.svg()
