"""`narrowgauge priors pipeline` and `narrowgauge bench priors`: tables, files, what is taken up again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from narrowgauge.bench.priors_run import PipelineRun
from narrowgauge.bench.report import write_json
from narrowgauge.commands import bench_priors, priors
from narrowgauge.priors.coding import load_compressed
from priors_results import STRENGTH, arms

SMALL = (
    *("--dim", "32", "--num-layers", "1", "--num-heads", "2", "--num-kv-heads", "1", "--ffn-dim", "32"),
    *("--seq-len", "16", "--batch-size", "2", "--steps", "3", "--fine-tune-steps", "2", "--recover-steps", "1"),
    *("--evaluations", "1", "--curve-batches", "1", "--final-windows", "16", "--data", "text.txt", "--runs", "runs"),
)


def pipeline(*words: str) -> int:
    parser = argparse.ArgumentParser()
    priors.add_arguments(parser)
    args = parser.parse_args(["pipeline", *SMALL, *words])
    return priors.run(args)


def bench(*words: str) -> int:
    parser = argparse.ArgumentParser()
    bench_priors.add_parser(parser.add_subparsers())
    args = parser.parse_args(["priors", *SMALL, *words])
    return args.run(args)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A text, and the runs of the pipeline below it."""
    made = tmp_path_factory.mktemp("commands")
    (made / "text.txt").write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(200)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        assert pipeline() == 0
    return made


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands read and write below that folder."""
    monkeypatch.chdir(folder)


def test_defaults_are_those_of_the_settings() -> None:
    from narrowgauge.bench.priors_run import PipelineSettings
    from narrowgauge.commands.priors_pipeline import add_arguments, settings_of

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert settings_of(parser.parse_args([])) == PipelineSettings()


def test_pipeline_prints_stages_and_writes_files(folder, capsys) -> None:
    assert pipeline("--out", "out/result.json", "--file", "out/model.ngz") == 0
    out, err = capsys.readouterr()
    assert "means of 1 seeds" in out
    body = [line.split() for line in out.splitlines() if line.startswith(("baseline", "pipeline"))]
    assert [row[0] for row in body].count("baseline") == 9
    assert [row[1] for row in body if row[0] == "pipeline"] == [
        "init",
        "trained",
        *["fine-tuned"] * 3,
        *["deepshape"] * 3,
    ]
    assert "2 runs of 7 steps; Llama" in err
    assert "runs are done" not in err
    content = json.loads((folder / "out" / "result.json").read_text())
    last = content["rows"][-1]["stage"]
    assert (last["state"], last["form"]) == ("deepshape", "rf8")
    assert (folder / "out" / "model.ngz").stat().st_size == last["nbytes"]
    assert "lm_head.weight" in load_compressed("out/model.ngz")


def test_a_command_goes_on_where_the_last_one_was(folder, capsys) -> None:
    pipeline()
    first = capsys.readouterr()
    lost = folder / "runs" / PipelineRun(0).name / "result.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    pipeline()
    second = capsys.readouterr()
    assert second.err.count("runs are done") == 1
    assert json.loads(lost.read_text())["final_loss"] == before["final_loss"]
    assert [line[:60] for line in second.out.splitlines()] == [line[:60] for line in first.out.splitlines()]


def test_other_settings_need_another_folder() -> None:
    with pytest.raises(ValueError, match="holds runs of other settings"):
        pipeline("--lr", "1e-3")
    with pytest.raises(ValueError, match="got those of the baseline"):
        pipeline("--shape", "2", "--strength", "0")


def test_shape_strength_and_mode_belong_to_a_run(folder, capsys) -> None:
    assert pipeline("--strength", "1e-3", "--mode", "in_loss") == 0
    assert capsys.readouterr().err.count("runs are done") == 1
    assert (folder / "runs" / PipelineRun(0, 1.0, 1e-3, "in_loss").name / "result.json").exists()


def test_json_has_rows_and_no_curves(capsys) -> None:
    pipeline("--json")
    content = json.loads(capsys.readouterr().out)
    assert len(content["rows"]) == 17
    assert "runs" not in content


def test_picture_is_drawn(folder) -> None:
    pytest.importorskip("matplotlib")
    pipeline("--plot", "pipeline.svg")
    assert "<svg" in (folder / "pipeline.svg").read_text()


def test_effects_have_verdicts(folder, capsys) -> None:
    """Of runs that are finished, with planted numbers."""
    pytest.importorskip("matplotlib")
    for planted in arms(gg={"area": 2.9}, rate={"bits": 4.0}):
        write_json(folder / "planted" / planted.run.name / "result.json", planted)
    words = ("--strength", str(STRENGTH), "--runs", "planted", "--out", "out/priors.json")
    assert bench(*words, "--plot", "out/priors.png") == 0
    out, err = capsys.readouterr()
    assert "12 runs of 7 steps" in err
    assert "runs are done" not in err
    claims = [line for line in out.splitlines() if line.endswith("(seeds 0, 1, 2)")]
    assert [line.split()[0] for line in claims] == ["init"] * 2 + ["backslash"] * 2 + ["deepshape"] * 3 + ["rf8"] * 3
    assert claims[0].startswith("init (shape 1, no rate): converges as fast")
    assert ": shown (seeds" in claims[0]
    assert ": not shown at this scale (seeds" in claims[2]
    assert ": shown (seeds" in claims[3]
    numbers = [line for line in out.splitlines() if line.startswith("backslash ") and "k = 0" in line]
    assert "-42.86" in numbers[0]
    assert "-50" in numbers[0]
    assert (folder / "out" / "priors.png").stat().st_size > 5000
    content = json.loads((folder / "out" / "priors.json").read_text())
    assert (len(content["findings"]), len(content["runs"]), content["pending_runs"]) == (10, 12, 0)
    bench(*words, "--json")
    assert "runs" not in json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_effects_are_measured_from_runs_that_the_pipeline_began(folder, capsys) -> None:
    assert bench("--seeds", "2") == 0
    out, err = capsys.readouterr()
    assert err.count("runs are done") == 6
    assert out.count("(seeds 0, 1)") == 10


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(ValueError, match="seeds: expected at least 2, got 1"):
        bench("--seeds", "1")
