"""The examples of docs/data.md and docs/tasks.md run as written and say what they promise."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


def run_examples(page: str) -> None:
    for number, example in enumerate(
        re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    ):
        exec(compile(example, f"{page}, example {number}", "exec"), {"__name__": "docs"})


def test_the_examples_of_tasks_run(capsys: pytest.CaptureFixture[str]) -> None:
    run_examples("tasks.md")
    first, untrained, own = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"b'\d\d\+\d\d=' b'\S+#\d{3}'", first)
    assert untrained == "0.0"
    assert own.startswith("Example(prompt=b")


def test_the_examples_of_data_run(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tokenizers")
    run_examples("data.md")
    places, back = capsys.readouterr().out.splitlines()
    assert set(re.findall(r"\d", places)) == {"0", "1"}
    assert back == "for i in range(3):"
