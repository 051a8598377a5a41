import json
from pathlib import Path

import pytest

import narrowgauge.methods  # noqa: F401 - importing it fills the register
from narrowgauge.cli import main
from narrowgauge.train import METHODS


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(list(words))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_list_has_every_method_with_paper_hooks_and_verdict(capsys) -> None:
    rows = json.loads(run(capsys, "methods", "list", "--json")[1])
    assert [row["name"] for row in rows] == sorted(METHODS)
    assert all(row["paper"] and row["summary"] and row["hooks"] for row in rows)
    assert {row["kind"] for row in rows} <= {"plug-in", "procedure"}
    table = run(capsys, "methods", "list")[1]
    assert all(row["name"] in table and row["paper"] in table for row in rows)


def test_show_explains_mechanism_settings_use_and_claims(capsys) -> None:
    status, out, _ = run(capsys, "methods", "show", "ema")
    assert status == 0
    for part in ("a_{t+1} = a_t", "decay", "narrowgauge train --method ema:decay=0.99", "hooks: attach, post_step"):
        assert part in out
    assert "validation loss of the average" in out


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_can_be_shown(capsys, name: str) -> None:
    content = json.loads(run(capsys, "methods", "show", name, "--json")[1])
    assert content["name"] == name
    assert len(content["mechanism"]) > 200
    assert content["usage"]
    assert content["claims"]
    assert content["setting"]


def test_check_runs_writes_and_prints(capsys, tmp_path: Path) -> None:
    words = ("methods", "check", "ema", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path))
    status, out, err = run(capsys, *words)
    assert status == 0
    assert "ema, float32, 2 seeds: " in out
    assert f"written: {tmp_path / 'ema.json'}" in err
    assert (tmp_path / "ema.png").exists()
    assert len(json.loads((tmp_path / "ema.json").read_text())["values"]) == 2


def test_a_try_writes_nothing_and_prints_json(capsys, tmp_path: Path) -> None:
    words = ("methods", "check", "ema", "--scale", "0.02", "--jobs", "1", "--out", str(tmp_path), "--json")
    out = run(capsys, *words)[1]
    assert json.loads(out)[0]["method"] == "ema"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check"], "names: expected names of methods, or --all"),
        (["check", "ema", "--all"], "names: expected names of methods, or --all"),
        (["check", "emma"], "unknown method 'emma'; nearest: ema"),
        (["check", "ema", "--seeds", "1"], "seeds: expected at least 2 for an interval, got 1"),
        (["check", "ema", "--scale", "3"], "scale: expected a number in (0, 1], got 3"),
        (["check", "ema", "--recipe", "fp8_rwo"], "fp8_row"),
        (["show", "emma"], "unknown method 'emma'; nearest: ema"),
    ],
)
def test_mistakes_are_one_line(capsys, words, message) -> None:
    status, _, err = run(capsys, "methods", *words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
