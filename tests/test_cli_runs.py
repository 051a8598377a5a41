import json
from pathlib import Path

import pytest

from narrowgauge.cli import main
from narrowgauge.commands.run_folder import read_run
from narrowgauge.commands.runs_plot import running_mean


def write(folder: Path, losses: list[float], **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"steps": 3, "model": "tiny", "lr": 0.1, **config}))
    lines = [json.dumps({"step": step + 1, "loss": loss, "grad_norm": 1.0}) for step, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "runs" / "one", [3.0, 1.0, 2.0], recipe="fp32", out="a", recipe_settings={"x": 1})
    write(tmp_path / "runs" / "two", [3.0, 2.5], recipe="fp8_row", out="b", recipe_settings={"x": 2})
    write(tmp_path / "elsewhere" / "three", [1.0], recipe="fp32", recipe_settings={"x": 3}, sizes={"dim": 8})
    return tmp_path


def test_list_says_how_far_each_run_is(two: Path, capsys) -> None:
    assert main(["runs", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["steps"], row["planned"], row["loss"]) for row in rows] == [
        ("one", 3, 3, 2.0),
        ("two", 2, 3, 2.5),
    ]
    main(["runs", "list"])
    assert "2 of 3" in capsys.readouterr().out


def test_compare_shows_what_differs_and_draws(two: Path, capsys) -> None:
    assert main(["runs", "compare", "one", "runs/two", "--plot", "both.svg"]) == 0
    out = capsys.readouterr().out
    assert "fp8_row" in out
    assert "lr" not in out  # the same in both
    assert "loss, best" in out
    assert (two / "both.svg").exists()
    assert "recipe_settings" not in out  # the recipe's name says it
    main(["runs", "compare", "one", "two", "--metric", "loss", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["metrics"] == {"loss": {"one": {"last": 2.0, "best": 1.0}, "two": {"last": 2.5, "best": 2.5}}}
    assert content["settings"] == {"recipe": {"one": "fp32", "two": "fp8_row"}}


def test_a_killed_runs_half_line_is_left_out(two: Path) -> None:
    path = two / "runs" / "one" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    assert read_run("one").steps == 3


def test_the_running_mean_is_that_of_the_last_values() -> None:
    assert running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "on"], "holds no training run (config.json is missing); did you mean 'one'?"),
        (["compare", "one", "two", "--metric", "los"], "metric: no run has 'los'; known: grad_norm, loss"),
        (["compare", "one", "one"], "runs: the same run is given twice"),
        (["list", "nowhere"], "folder: nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(two: Path, capsys, words, message) -> None:
    assert main(["runs", *words]) == 2
    assert message in capsys.readouterr().err


def test_settings_in_tables_have_names_with_dots(two: Path, capsys) -> None:
    main(["runs", "compare", "one", "elsewhere/three", "--json"])
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["sizes.dim"] == {"one": None, "three": 8}
    assert settings["recipe_settings.x"] == {"one": 1, "three": 3}
    assert "out" not in settings
