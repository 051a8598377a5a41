"""A mistake on a command line is one line."""

from __future__ import annotations

import pytest

from narrowgauge.bench.parser import OneLineParser


@pytest.mark.parametrize(("words", "hint"), [(["--size", "x"], "invalid int value: 'x'"), (["--siz", "3"], "--siz")])
def test_a_mistake_is_one_line_and_status_2(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = OneLineParser("suite", prog="python -m suite")
    parser.add_argument("--size", type=int)
    with pytest.raises(SystemExit) as refused:
        parser.parse_args(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert refused.value.code == 2
    assert line.startswith("suite: ")
    assert hint in line
    assert line.endswith("see python -m suite --help")
