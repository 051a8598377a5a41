"""The example of docs/reinforcement.md runs as written and says what it promises."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reinforcement.md"


def test_the_example_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, PAGE.name, "exec"), {"__name__": "docs"})
    before, after = capsys.readouterr().out.splitlines()
    reward, length = (float(number) for number in re.findall(r"\d+\.\d+", before))
    assert reward < 0.7
    assert length > 4
    reward, length = (float(number) for number in re.findall(r"\d+\.\d+", after))
    assert reward > 0.9
    assert 2.8 <= length <= 3.2
