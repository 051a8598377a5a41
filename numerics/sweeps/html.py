"""A sweep as one HTML page: words, tables and charts, with nothing to load and nothing to install."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from statistics import fmean

from narrowgauge.numerics.sweeps.charts import (
    STRIP_ROWS,
    curves,
    distinct_elements,
    histogram,
    legend,
    pareto,
    strip,
)
from narrowgauge.numerics.sweeps.result import SweepResult
from narrowgauge.numerics.sweeps.rows import Choice, Series, SweepRow
from narrowgauge.numerics.sweeps.shapes import shape_series
from narrowgauge.numerics.sweeps.style import CSS, SCRIPT
from narrowgauge.numerics.sweeps.text import (
    SLACK,
    decibels,
    percent,
    plural,
    schemes_by_bits,
    significant,
    sorted_rows,
    summary,
)

HISTOGRAMS = 24
HEAT_SPAN = 20.0
"""dB from the target at which a colour of the heat map is full."""
NARROW, WIDE = 4.5, 8.5

_DETAILS = (
    ("effective_bits", "effective bits", "SQNR / 6.02 dB: bits that an ideal code of Gaussian data would need"),
    ("cosine_similarity", "cosine", "cosine similarity of the quantised tensor and the original"),
    ("gain", "gain", "⟨x, x̂⟩ / ⟨x, x⟩: 1 is unbiased, below 1 the tensor shrinks"),
    ("bias", "bias / rms", "mean error in units of the tensor's rms"),
    ("relative_p50", "rel. error p50", "median of |x̂ − x| / |x|"),
    ("relative_p99", "rel. error p99", "its 99th percentile"),
    ("max_relative_error", "rel. error max", "its largest value"),
    ("ulp_max", "ULP max", "largest error in units of the format's last place"),
    ("codes_used", "codes used", "distinct codes that occur"),
    ("code_entropy_bits", "entropy, bits", "entropy of the codes: what a perfect coder would need per value"),
    ("blocks", "groups", "groups of elements that share a scale"),
    ("blocks_clipped", "groups clipped", "how many of them have a clipped element"),
)
_DIGITS = {"cosine_similarity": 4, "gain": 4, "codes_used": 5, "blocks": 6, "blocks_clipped": 6}


def page(result: SweepResult) -> str:
    """The whole page. It loads nothing, follows the reader's light or dark setting, and prints."""
    sections = [
        _section("In short", _list(summary(result))),
        _section("Which format for which tensor", _choices(result)),
        _section("SQNR of every tensor and scheme", _heat(result)),
        _section("Accuracy against size", _pareto(result)),
        _section("Tensor by tensor", _strip(result)),
        *(_section(series.title, _curves(result, series)) for series in (*shape_series(result), *result.series)),
        _section("What is lost at the ends of the range", _ends(result)),
        _section("Magnitudes, and what the formats cover", _histograms(result)),
        _section("All measurements", _all_rows(result)),
        _section("Left out", _left_out(result)),
        _section("Terms", _terms(result)),
    ]
    title = escape(result.title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head>\n<body><h1>{title}</h1>\n"
        f"{''.join(section for section in sections if section)}<script>{SCRIPT}</script></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>\n" if content else ""


def _list(lines: Iterable[str]) -> str:
    return '<ul class="summary">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _note(text: str) -> str:
    return f'<p class="note">{text}</p>'


def _scroll(content: str) -> str:
    return f'<div class="scroll">{content}</div>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table of cells that are escaped already; the first `text_columns` flush left."""

    def row(cells: Sequence[str], tag: str) -> str:
        left = (' class="t"' if place < text_columns else "" for place in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{css}>{cell}</{tag}>" for cell, css in zip(cells, left, strict=True)) + "</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return _scroll(f"<table><thead>{row(heads, 'th')}</thead><tbody>\n{body}</tbody></table>")


def _choices(result: SweepResult) -> str:
    cheapest = result.cheapest()
    narrow, wide = (result.best(max_bits=bits + SLACK) for bits in (NARROW, WIDE))
    by_name = {tensor.info.name: tensor for tensor in result.tensors}
    rows = []
    for name in result.worst_first():
        tensor = by_name[name]
        shape = " × ".join(f"{side:,}" for side in tensor.info.shape) or "scalar"
        facts = (tensor.info.role, shape, significant(tensor.amax_over_rms), significant(tensor.kurtosis))
        picks = (_pick(choices.get(name)) for choices in (cheapest, narrow, wide))
        rows.append((escape(name), *picks, *(escape(fact) for fact in facts)))
    heads = ("role", "shape", "amax / rms", "kurtosis")
    targets = (f"fewest bits for {result.target_db:g} dB", f"best up to {NARROW:g} bits", f"best up to {WIDE:g} bits")
    note = _note(
        "Hardest tensors first. Bits are per value and include the scales. "
        "The kurtosis is 3 for Gaussian data, more where tails are heavy."
    )
    return note + _table(("tensor", *targets, *heads), rows, 5)


def _pick(choice: Choice | None) -> str:
    if choice is None:
        return "none"
    text = f'{escape(choice.scheme)}<br><span class="sub">{choice.bits:.2f} bits, {choice.sqnr_db:.1f} dB</span>'
    return text if choice.reaches else f"not reached: {text}"


def _heat(result: SweepResult) -> str:
    schemes, cheapest = schemes_by_bits(result), result.cheapest()
    head = "".join(f'<th>{escape(text)}<br><span class="sub">{result.bits(text):.2f} b</span></th>' for text in schemes)
    lines = []
    for name in result.worst_first():
        cells = []
        for scheme in schemes:
            row = result.row(name, scheme)
            picked = cheapest[name].scheme == scheme and cheapest[name].reaches
            cells.append(_heat_cell(row, result.target_db, picked))
        lines.append(f'<tr><td class="t" title="{escape(name)}">{escape(name)}</td>{"".join(cells)}</tr>')
    target = result.target_db
    key = (
        f'<p class="note"><span class="swatch" style="background:{_tint(-1.0)}"></span>{target - HEAT_SPAN:g} dB and '
        f'less &ensp;<span class="swatch" style="background:{_tint(1.0)}"></span>{target + HEAT_SPAN:g} dB and more '
        f'&ensp;<span class="swatch pick"></span>fewest bits that reach {target:g} dB. Values in dB; '
        "6 dB less is twice the error. The small figures are bits per value.</p>"
    )
    return key + _scroll(
        f'<table class="heat"><thead><tr><th class="t">tensor</th>{head}</tr></thead><tbody>\n'
        + "\n".join(lines)
        + "</tbody></table>"
    )


def _tint(t: float) -> str:
    """Colour for t in [-1, 1]: the page's own background in the middle."""
    return f"rgba(var(--{'good' if t >= 0 else 'bad'}),{0.5 * abs(t):.2f})"


def _heat_cell(row: SweepRow | None, target: float, picked: bool) -> str:
    if row is None:
        return "<td>–</td>"
    value = row.sqnr_db
    t = -1.0 if math.isnan(value) else min(max((value - target) / HEAT_SPAN, -1.0), 1.0)
    css = ' class="pick"' if picked else ""
    return f'<td{css} style="background:{_tint(t)}">{decibels(value)}</td>'


def _pareto(result: SweepResult) -> str:
    note = _note(
        "A mark is a scheme's mean over the tensors, the line through it reaches from its worst tensor to its best. "
        "The dashed line joins the schemes that none with fewer bits surpasses."
    )
    return note + _scroll(pareto(result))


def _strip(result: SweepResult) -> str:
    hidden = len(result.tensors) - STRIP_ROWS
    more = f" The {STRIP_ROWS} hardest tensors; {hidden} easier ones are in the tables." if hidden > 0 else ""
    dotted = f"The dotted line is the target of {result.target_db:g} dB."
    return legend(schemes_by_bits(result)) + _scroll(strip(result)) + _note(dotted + more)


def _curves(result: SweepResult, series: Series) -> str:
    drawing = curves(series, schemes_by_bits(result))
    return _scroll(drawing) if drawing else ""


def _ends(result: SweepResult) -> str:
    rows = []
    for scheme in schemes_by_bits(result):
        of_scheme = [row for row in result.rows if row.scheme == scheme]
        cells = [escape(scheme)]
        for metric in ("underflow", "overflow_clipped"):
            worst = max(of_scheme, key=lambda row: row.metric(metric))
            share = worst.metric(metric)
            where = escape(worst.tensor) if share > 0.0 else "–"
            cells += [percent(fmean(row.metric(metric) for row in of_scheme)), percent(share), where]
        rows.append(cells)
    heads = ("scheme", "to zero: mean %", "worst %", "in", "clipped: mean %", "worst %", "in")
    note = _note("Share of the elements that became zero without being zero, and that lay beyond the largest value.")
    return note + _table(heads, rows)


def _histograms(result: SweepResult) -> str:
    by_name = {tensor.info.name: tensor for tensor in result.tensors}
    names = [name for name in result.worst_first() if by_name[name].histogram]
    if not names:
        return ""
    elements = distinct_elements(result.schemes)
    figures = []
    for name in names[:HISTOGRAMS]:
        tensor = by_name[name]
        sample = f"; {tensor.info.sample}" if tensor.info.sample else ""
        facts = f"amax {tensor.amax:.3g}, rms {tensor.rms:.3g}, zeros {percent(tensor.zeros)} %{escape(sample)}"
        figures.append(
            f'<figure><h3>{escape(name)}</h3><p class="note">{facts}</p>{histogram(tensor, elements)}</figure>'
        )
    more = f" Shown are the {HISTOGRAMS} hardest of {len(names)} tensors." if len(names) > HISTOGRAMS else ""
    note = _note(
        "Columns: elements per half binade of |x|, zeros left out. Bars: what an element format covers when one scale "
        "puts its largest value at the tensor's amax, the paler part with less than full precision; finer "
        f"granularities and block formats move the bar with every group. Dotted: the rms.{more}"
    )
    return f'{note}<div class="grid2">{"".join(figures)}</div>'


def _all_rows(result: SweepResult) -> str:
    details = [(name, head) for name, head, _ in _DETAILS if name in result.metric_names]
    heads = ("tensor", "role", "scheme", "bits", "SQNR, dB", "to zero, %", "clipped, %", *(head for _, head in details))
    shown = "".join(
        f'<th{" class=t" if place < 3 else ""}><button type="button">{escape(head)}</button></th>'
        for place, head in enumerate(heads)
    )
    lines = []
    for row in sorted_rows(result):
        cells = [f'<td class="t">{escape(text)}</td>' for text in (row.tensor, row.role, row.scheme)]
        values = [(f"{row.bits:.2f}", row.bits), (decibels(row.sqnr_db), row.sqnr_db)]
        values += [(percent(row.metric(name)), row.metric(name)) for name in ("underflow", "overflow_clipped")]
        values += [(significant(row.metric(name), _DIGITS.get(name, 3)), row.metric(name)) for name, _ in details]
        cells += [f'<td data-v="{_sortable(value)}">{text}</td>' for text, value in values]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    tool = (
        '<p class="screen"><label>Filter: <input type="search" id="filter" placeholder="words of a row"></label> '
        '<span class="note">A click on a head sorts.</span></p>'
    )
    return tool + _scroll(
        f'<table id="rows"><thead><tr>{shown}</tr></thead><tbody>\n' + "\n".join(lines) + "</tbody></table>"
    )


def _sortable(value: float) -> str:
    """A number as JavaScript's parseFloat reads it."""
    return repr(value).replace("inf", "Infinity").replace("nan", "NaN")


def _left_out(result: SweepResult) -> str:
    rows = [(escape(entry.scheme), escape(entry.tensor or "all"), escape(entry.reason)) for entry in result.skipped]
    return _table(("scheme", "tensor", "why"), rows, 3) if rows else ""


def _terms(result: SweepResult) -> str:
    terms = [
        ("SQNR", "signal to quantisation noise ratio, 10 log10(Σx² / Σ(x − x̂)²) in dB; higher is better"),
        ("bits", "storage per value: the code, and its share of the scales"),
        ("to zero", "share of the elements that are not zero and became zero"),
        ("clipped", "share of the elements beyond the format's largest value at their scale"),
        *((head, meaning) for name, head, meaning in _DETAILS if name in result.metric_names),
    ]
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in terms)
    count = plural(sum(tensor.count for tensor in result.tensors), "value")
    return f"<dl>{items}</dl>" + _note(f"{count} quantised by every scheme; seed {result.seed}.")
