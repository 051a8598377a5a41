import pytest

from narrowgauge.train.tasks import line_kinds
from narrowgauge.train.tasks.line_kinds import LabelledLine, classify


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("    if self.fp is None:", LabelledLine(b"if self.fp is None:", 0)),
        ("# The caller holds the lock", LabelledLine(b"The caller holds the lock", 1)),
        ("    def close(self):", LabelledLine(b"def close(self):", 2)),
        ("import os, sys, time", LabelledLine(b"import os, sys, time", 2)),
        ("iffy = self.fp is None", None),
        ("# x = y", None),
        ("return x", None),
        ("# The Größe of the lock", None),
    ],
)
def test_lines_are_told_apart(line: str, expected: LabelledLine | None) -> None:
    assert classify(line, 48) == expected


def test_long_lines_are_cut() -> None:
    assert classify("if " + "x" * 100, 20) == LabelledLine(b"if " + b"x" * 17, 0)


def test_every_slice_is_balanced_and_no_line_comes_twice() -> None:
    lines = line_kinds(1200, seed=0)
    assert [line.label for line in lines] == [0, 1, 2] * 400
    assert len({line.text for line in lines}) == 1200
    assert all(12 <= len(line.text) <= 48 or line.text != line.text.rstrip() for line in lines)
    assert line_kinds(30, seed=0) == lines[:30]
    assert line_kinds(30, seed=1) != lines[:30]


def test_more_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        line_kinds(10_000_000, seed=0)
