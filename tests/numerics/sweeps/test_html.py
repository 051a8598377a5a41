"""The report is one well-formed page that loads nothing and has everything in it; its drawings keep apart."""

import math
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from narrowgauge.numerics import SweepResult, from_distributions, sweep
from narrowgauge.numerics.sweeps.charts import curves, histogram, legend, pareto
from narrowgauge.numerics.sweeps.rows import Series
from narrowgauge.numerics.sweeps.svg import Canvas, place_labels, shorten, spread, ticks
from narrowgauge.numerics.sweeps.text import decibels, percent, significant

VOID = {"meta", "br", "input"}
SCHEMES = ["int4/1x32", "nvfp4", "mxfp6", "e4m3fn", "e4m3fn/row", "e5m2", "int8/row", "mxfp8", "bf16", "mxfp8/row"]


class Page(HTMLParser):
    """Raises for a tag that is closed wrongly; collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"attribute given twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return sweep(from_distributions(["normal", "gg0.5", "gg1", "gg2", "channels"], size=(16, 128)), SCHEMES)


@pytest.fixture(scope="module")
def page(result: SweepResult) -> Page:
    return Page(result.html())


def test_the_page_is_well_formed_and_names_every_tensor_scheme_and_reason(result, page):
    text = " ".join(page.words)
    for tensor in result.tensors:
        assert tensor.info.name in text
    for scheme in result.schemes:
        assert scheme.text in text
    for line in result.summary():
        assert line in text
    assert result.skipped[0].reason in text
    assert {"DB", "SQNR, dB", "log2 |x|", "SQNR over the shape of a generalized Gaussian"} & set(page.words)


def test_the_page_loads_nothing(result, page):
    assert not [tag for tag, attributes in page.tags if {"src", "href", "xlink:href"} & set(attributes)]
    assert not any(word in result.html() for word in ("http:", "https:", "@import", "url("))


def test_every_measurement_has_a_row_that_sorts_by_number(result, page):
    cells = [attributes["data-v"] for attributes in page.all("td") if "data-v" in attributes]
    columns = len(cells) // len(result.rows)
    assert columns * len(result.rows) == len(cells)
    assert columns >= 10
    assert {float(cell) for cell in cells} >= {row.sqnr_db for row in result.rows}
    assert len(page.all("button")) == columns + 3


def test_every_drawing_has_a_name_and_every_mark_a_title(page):
    drawings = page.all("svg")
    assert all(drawing["aria-label"] and drawing["viewbox"] for drawing in drawings)
    assert len(page.all("polygon")) > 5 * 9
    assert len(page.all("title")) > len(page.all("polygon"))


def test_every_coordinate_is_finite_and_inside_its_drawing(result):
    for drawing in (pareto(result), histogram(result.tensors[0], result.schemes)):
        inner = Page(drawing)
        width, height = map(float, inner.all("svg")[0]["viewbox"].split()[2:])
        for line in inner.all("line") + inner.all("text"):
            for name, value in line.items():
                if name in ("x", "x1", "x2"):
                    assert -1 <= float(value) <= width + 1
                if name in ("y", "y1", "y2"):
                    assert -1 <= float(value) <= height + 1


def test_names_with_signs_of_html_are_shown_and_not_obeyed():
    name = '<script>alert("x")</script>&\'"'
    found = sweep({name: [[1.0, 2.0, 3.3]]}, ["int8", "e5m2"], title="a < b & c")
    page = Page(found.html())
    assert name in page.words
    assert len(page.all("script")) == 1
    assert "a < b & c" in page.words


def test_values_that_are_not_finite_are_told_in_the_tables_and_kept_out_of_the_drawings():
    found = sweep(
        {"nan": [[math.nan, 1.0]], "exact": [[1.0, 2.0]], "inf": [[math.inf, 1.0]], "zero": [[0.0, 0.0]]},
        ["e5m2:static=1", "int8/row", "mxfp4"],
    )
    page = Page(found.html())
    assert {"exact", "nan"} <= {word.strip() for word in page.words}
    for attributes in page.all("polygon") + page.all("polyline"):
        assert "nan" not in attributes["points"]
        assert "inf" not in attributes["points"]


def test_the_page_is_written_and_the_same_from_json(result, tmp_path):
    path = tmp_path / "report.html"
    text = result.html(path)
    assert path.read_text(encoding="utf-8") == text
    assert SweepResult.from_json(result.to_json()).html() == text


def test_many_tensors_are_cut_where_it_says_so():
    found = sweep({f"layers.{index}.mlp.weight": [[1.0 + index, 2.0, -3.3]] for index in range(45)}, ["int8"])
    text = " ".join(Page(found.html()).words)
    assert "The 40 hardest tensors; 5 easier ones are in the tables." in text
    assert "Shown are the 24 hardest of 45 tensors." in text


def test_a_figure_is_written_in_each_format(result, tmp_path):
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        result.figure(tmp_path / f"figure{suffix}")
        assert (tmp_path / f"figure{suffix}").read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"path: got figure.txt, accepted: names that end in .png"):
        result.figure(tmp_path / "figure.txt")


def test_without_matplotlib_the_figure_says_how_to_get_it_and_the_page_needs_none(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'narrowgauge\[plots\]'"):
        result.figure(tmp_path / "figure.png")
    assert result.html()


# Drawing


def test_ticks_are_round_and_within():
    assert ticks(0.0, 60.0) == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    assert ticks(-3.2, 1.4, 5) == [-3.0, -2.0, -1.0, 0.0, 1.0]
    assert ticks(0.31, 0.94) == [0.4, 0.6, 0.8]
    assert ticks(2.0, 2.0) == [2.0]


def test_labels_are_spread_apart_in_their_order_and_stay_inside():
    placed = spread([5.0, 5.0, 5.1, 40.0, 99.0, 100.0], 10.0, 0.0, 100.0)
    assert placed == sorted(placed)
    assert all(b - a >= 9.99 for a, b in pairwise(placed))
    assert min(placed) >= 0.0
    assert max(placed) <= 100.0
    crowded = spread([50.0] * 40, 10.0, 0.0, 100.0)
    assert sorted(crowded) == pytest.approx([index * 100 / 39 for index in range(40)])


def test_labels_of_points_that_coincide_do_not_overlap():
    canvas = Canvas(400, 300, "test")
    points = [(200.0, 150.0, f"e4m3fn/1x{index}", index) for index in range(12)]
    place_labels(canvas, points, (0.0, 0.0, 400.0, 300.0))
    texts = Page(canvas.svg()).all("text")
    places = [(text["text-anchor"], float(text["y"])) for text in texts]
    assert len(places) == 12
    for anchor in ("start", "end"):
        heights = sorted(y for side, y in places if side == anchor)
        assert all(b - a >= 11.9 for a, b in pairwise(heights))


def test_long_names_lose_their_middle():
    assert shorten("model.layers.10.self_attn.q_proj.weight", 20) == "model.l…_proj.weight"
    assert shorten("short", 20) == "short"
    assert len(shorten("x" * 99, 20)) == 20


def test_curves_leave_gaps_out_and_are_empty_without_a_number():
    series = Series("t", "step", "SQNR, dB", (0.0, 1.0, 2.0), {"a": (1.0, math.nan, 3.0), "b": (math.nan,) * 3})
    drawing = curves(series, [])
    assert "nan" not in drawing
    assert ">a<" in drawing
    assert ">b<" not in drawing
    assert curves(Series("t", "step", "dB", (0.0,), {"b": (math.nan,)}), []) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (decibels(31.46), "31.5"),
        (decibels(math.inf), "exact"),
        (decibels(-math.inf), "-inf"),
        (decibels(math.nan), "nan"),
        (percent(0.0), "0"),
        (percent(0.123), "12.3"),
        (percent(0.00001234), "0.001"),
        (percent(1.0), "100.0"),
        (significant(1171.4), "1,170"),
        (significant(0.00123456), "0.00123"),
        (significant(math.nan), ""),
    ],
)
def test_numbers_are_rounded_for_reading(text, expected):
    assert text == expected


def test_names_in_the_legend_are_text():
    assert "a<b" not in legend(["a<b"])
    assert "".join(Page(legend(["a<b"])).words).endswith("a<b")
