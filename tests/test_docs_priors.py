"""The example of docs/priors.md runs as written and says what it promises."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "priors.md"


def test_the_example_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, PAGE.name, "exec"), {"__name__": "docs"})
    fitted, best, bits = capsys.readouterr().out.splitlines()
    assert [float(number) for number in fitted.split()[:2]] == pytest.approx([1.36, (2 / 64) ** 0.5], rel=0.05)
    assert best.startswith("generalized 0.0")
    before, after, zeros = (float(number) for number in re.findall(r"[\d.]+(?= ->| bits|%)", bits))
    assert after < before - 1
    assert zeros > 48
