"""The command line: results on stdout, the rest on stderr, exit status 0, 1 or 2, no traceback for a mistake."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import narrowgauge
from narrowgauge.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
ACTIONS = [["bench", "quantize"], ["bench", "linear"], ["bench", "compile-matrix"], ["methods", "list"]]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write below the current folder unless told otherwise."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `narrowgauge WORDS`."""
    try:
        status = main(list(words))
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_help_loads_neither_torch_nor_numpy():
    paths = [path for path in sys.path if path]
    code = (
        f"import sys\nsys.path[:0] = {paths!r}\n"
        "from narrowgauge.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print([m for m in ('torch', 'numpy', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), *ACTIONS], ids=" ".join)
def test_every_help_teaches_with_examples(words, capsys):
    status, out, _ = run(capsys, *words, "--help")
    assert status == 0
    assert f"usage: {' '.join(['narrowgauge', *words])}" in out
    assert "examples:" in out or words == []


def test_examples_in_the_helps_name_flags_that_exist():
    from narrowgauge.cli import build_parser

    parser = build_parser()
    lines = [line.strip() for module in COMMANDS.values() for line in module.DESCRIPTION.splitlines()]
    examples = [line.split(" > ")[0].split() for line in lines if line.startswith("narrowgauge ")]
    assert len(examples) > 15
    for example in examples:
        _, unknown = parser.parse_known_args(example[1:])
        assert unknown == [], example


def test_version_is_printed(capsys):
    assert run(capsys, "--version") == (0, f"narrowgauge {narrowgauge.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["demoo"], "did you mean 'demo'?"),
        (["demo", "--stpes", "3"], "did you mean '--steps'?"),
        (["bench", "quantise"], "did you mean 'quantize'?"),
        (["bench", "quantize", "--scheem", "int8"], "did you mean '--scheme'?"),
        (["methods", "lsit"], "did you mean 'list'?"),
        (["formats", "e4m3f"], "nearest: e4m3fn"),
        (["bench", "quantize", "--scheme", "e4m3fn/rows"], "accepted: tensor, row, col"),
        (["bench", "quantize", "--size", "0"], "size: expected at least 1"),
        (["bench", "linear", "--recipe", "fp8_rows"], "nearest: fp8_row"),
        (["bench", "activation", "--policy", "int9"], "int8"),
        (["bench", "activation", "--size", "100"], "size: expected a multiple of 64, got 100"),
        (["demo", "--recipe", "mxfp"], "nearest: mxfp8"),
        (["demo", "--data", "/nowhere/at/all"], "does not exist"),
        (["demo", "--steps", "0"], "steps: expected at least 1"),
        (["demo", "--threads", "0"], "threads: expected at least 1"),
        (["demo", "--state", "coats"], "coat"),
        (["demo", "--init", "gg", "--gg-shape", "-1"], "shape"),
        (["demo", "--device", "gpu"], "accepted: cpu, cuda"),
        (["train", "/nowhere.toml"], "No such file"),
        (["train", "--model", "tiniest", "--out", "/nowhere/at/all"], "did you mean 'tiny'?"),
        (["train", "--method", "emma"], "nearest: ema"),
        (["train", "--method", "ema:dekay=0.5"], "dekay"),
        (["train", "--resume", "--out", "/nowhere/at/all"], "no checkpoint"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_on_stderr_and_status_2(words, hint, capsys):
    status, out, err = run(capsys, *words)
    last = err.splitlines()[-1]
    assert (status, out) == (2, "")
    assert last.startswith(f"narrowgauge {words[0]}" if words[0] in COMMANDS else "narrowgauge")
    assert hint in last
    assert "Traceback" not in err


def test_traceback_can_be_asked_for():
    with pytest.raises(ValueError, match="unknown name"):
        main(["--traceback", "formats", "nonsense"])


def test_methods_list_is_machine_readable(capsys):
    rows = json.loads(run(capsys, "methods", "list", "--json")[1])
    (ema,) = (row for row in rows if row["name"] == "ema")
    assert ema["arxiv"] == "2411.18704"
    assert ema["settings"] == {"decay": 0.999}
    assert "ema" in run(capsys, "methods", "list")[1]


def test_ops_names_the_implementation_on_the_cpu(capsys):
    rows = {row["name"]: row for row in json.loads(run(capsys, "ops", "--json")[1])}
    assert {"quantize", "dequantize", "scaled_gemm", "optimizer_step"} <= set(rows)
    assert {row["cpu"] for row in rows.values()} == {"torch"}
    assert "quantize" in run(capsys, "ops")[1]


def test_doctor_finds_this_installation_right(capsys):
    status, out, _ = run(capsys, "doctor", "--json")
    findings = json.loads(out)
    assert (status, findings["ok"]) == (0, True)
    assert set(findings["recipes"]) == {name for name, r in narrowgauge.nn.RECIPES.items() if r.quantized}
    assert "all checks passed" in run(capsys, "doctor")[1]


def test_doctor_fails_with_status_1_where_codes_are_wrong(capsys, monkeypatch):
    from narrowgauge.commands import checks

    right = checks.quantize

    def wrong(x, scheme, seed):
        q = right(x, scheme, seed=seed)
        q.codes[0, 0] ^= 1
        return q

    monkeypatch.setattr(checks, "quantize", wrong)
    status, out, _ = run(capsys, "doctor", "--json")
    assert status == 1
    assert "1 of 12288 elements differ" in json.loads(out)["checks"]["e4m3fn/row"]
    assert "a check failed" in run(capsys, "doctor")[1]


def test_bench_quantize_prints_ratios_and_writes_a_file(capsys, tmp_path):
    words = ["bench", "quantize", "--size", "64", "--no-compiled", "--repetitions", "9"]
    status, out, err = run(capsys, *words, "--out", str(tmp_path / "q.json"))
    assert status == 0
    assert re.search(r"64x64: e4m3fn/row +\S+ +\S+ ", out)
    assert "not timed: e4m3fn/row, compiled; e4m3fn/row+sr, compiled (left out as asked)" in out
    assert "ceilings in this run: copy " in out
    assert "written:" in err
    assert json.loads((tmp_path / "q.json").read_text())["suite"] == "quantize"


def test_bench_json_is_one_object(capsys):
    words = ["bench", "quantize", "--size", "32", "--no-compiled", "--no-peers", "--repetitions", "9", "--json"]
    result = json.loads(run(capsys, *words)[1])
    assert [row["name"] for row in result["rows"]] == [
        f"32x32: {name}" for name in ("clone", "copy_", "e4m3fn/row", "e4m3fn/row+sr")
    ]


def test_bench_activation_prints_the_units_that_are_kept(capsys):
    words = ["bench", "activation", "--size", "64", "--policy", "int8", "--train-steps", "0", "--repetitions", "9"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert "U saved" in out
    assert "int8" in out


def test_bench_gives_no_speed_of_a_wrong_result(capsys, monkeypatch):
    from narrowgauge.bench import quantize_competitors

    def wrong(*args):
        raise AssertionError("codes: 1 of 64 elements differ")

    monkeypatch.setattr(quantize_competitors, "check_conformance", wrong)
    status, out, err = run(capsys, "bench", "quantize", "--size", "8", "--no-compiled", "--no-peers")
    assert (status, out) == (1, "")
    assert "its speed is not reported" in err


TINY = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 64, "max_seq_len": 32}


@pytest.fixture
def tiny_demo(monkeypatch):
    """The demo with a model that trains in a moment."""
    from narrowgauge.commands import demo_run

    sizes = narrowgauge.train.LlamaConfig(**TINY)
    monkeypatch.setattr(demo_run, "DemoConfig", functools.partial(demo_run.DemoConfig, sizes=sizes, batch_size=2))


def test_demo_json_compares_the_two_runs(tiny_demo, capsys, tmp_path):
    status, out, err = run(capsys, "demo", "--json", "--steps", "4", "--out", str(tmp_path))
    result = json.loads(out)
    assert status == 0
    fp32, narrow = result["fp32"], result["quantized"]
    assert result["gap_percent"] == pytest.approx(100 * (narrow["val_loss"] / fp32["val_loss"] - 1))
    assert abs(result["gap_percent"]) < 5
    assert fp32["state_bytes_per_param"] == pytest.approx(8, abs=0.01)
    assert result["state_bytes_per_param"] == narrow["state_bytes_per_param"] < 3
    assert narrow["saved_for_backward_bytes"] > 0
    assert result["seconds"] > 0
    assert set(narrow["sqnr_db"]) == set(narrowgauge.nn.SLOTS)
    assert all(20 < seen["min"] <= seen["mean"] for seen in narrow["sqnr_db"].values())
    assert result["layers"]["converted"] == 7
    assert "step 4/4" in err
    assert json.loads((tmp_path / "demo.json").read_text())["fp32"]["train_curve"]["steps"] == [1, 2, 3, 4]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_demo_prints_one_table_and_what_was_emulated(tiny_demo, capsys, tmp_path):
    status, out, _ = run(
        capsys, "demo", "--steps", "2", "--recipe", "fp8_row_hp_wgrad", "--state", "int8", "--out", str(tmp_path)
    )
    assert status == 0
    for text in ("validation loss", "optimizer state", "saved for backward", "time per step", "lm_head", "emulated"):
        assert text in out
    assert re.search(r"SQNR of x_wgrad +not quantised", out)


def test_demo_leaves_the_number_of_threads_as_it_was(tiny_demo, capsys, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        result = json.loads(run(capsys, "demo", "--steps", "1", "--json", "--out", str(tmp_path))[1])
        assert (result["machine"]["threads"], torch.get_num_threads()) == (1, before + 1)
    finally:
        torch.set_num_threads(before)


def test_sample_holds_no_control_characters():
    from narrowgauge.commands.measure import sample_text

    model = narrowgauge.train.Llama(narrowgauge.train.LlamaConfig(**TINY))
    text = sample_text(model, "def ", device=torch.device("cpu"), length=100)  # of all bytes, the model is untrained
    assert text.startswith("def ")
    assert all(c.isprintable() or c in "\n\t" for c in text)


def test_saved_for_backward_counts_each_memory_once_and_no_parameter():
    from narrowgauge.commands.measure import saved_for_backward

    class Square(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(300, 500))

        def forward(self, x):
            hidden = x @ self.weight  # keeps x and the parameter
            return hidden * hidden * hidden  # keeps hidden, three times, and its square

    x, labels = torch.ones(1, 70, 300), torch.zeros((1, 70), dtype=torch.int64)
    logits = 70 * 500 * 4
    loss = logits + labels.nbytes  # the log of the softmax, and the labels
    kept = saved_for_backward(Square(), {"input_ids": x, "labels": labels})
    assert kept == pytest.approx(x.nbytes + 2 * logits + loss, abs=64)


def test_optimizer_bytes_are_those_the_optimizer_states():
    from narrowgauge.commands.measure import optimizer_state_bytes

    weight = torch.nn.Parameter(torch.ones(40, 50))
    weight.grad = torch.ones(40, 50)
    for optimizer in (narrowgauge.optim.AdamW([weight]), torch.optim.AdamW([weight])):
        optimizer.step()
        counted = optimizer_state_bytes(optimizer)
        if isinstance(optimizer, narrowgauge.optim.AdamW):
            assert counted == optimizer.state_bytes().total
        else:
            assert counted == 8 * 2000 + 4  # the step counter


def test_demo_says_so_where_matplotlib_is_missing(tiny_demo, capsys, tmp_path, monkeypatch):
    from narrowgauge.commands import demo_report

    monkeypatch.setattr(demo_report, "find_spec", lambda name: None)
    _, _, err = run(capsys, "demo", "--steps", "1", "--out", str(tmp_path))
    assert "matplotlib is not installed" in err
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


def test_generalized_gaussian_starts_both_runs_from_other_weights(tiny_demo, capsys, tmp_path):
    words = ["demo", "--json", "--steps", "1", "--recipe", "fp32", "--state", "fp32", "--out", str(tmp_path)]
    normal = json.loads(run(capsys, *words)[1])
    heavy = json.loads(run(capsys, *words, "--init", "gg", "--gg-shape", "1.36")[1])
    assert normal["fp32"]["val_loss"] != heavy["fp32"]["val_loss"]
    for result in (normal, heavy):  # nothing is quantised: what is left is the optimizers' rounding
        assert result["gap_percent"] == pytest.approx(0, abs=1e-2)


def train_words(folder: Path, *more: str) -> list[str]:
    small = ["--model", "tiny", "--batch-size", "2", "--seq-len", "32", "--recipe", "fp8_row", "--device", "cpu"]
    return [
        "train",
        *small,
        "--warmup",
        "1",
        "--eval-every",
        "4",
        "--save-every",
        "2",
        "--no-plot",
        "--out",
        str(folder),
        "--json",
        *more,
    ]


def test_train_writes_config_metrics_and_checkpoint(capsys, tmp_path):
    status, out, err = run(capsys, *train_words(tmp_path / "run", "--steps", "4", "--method", "ema:decay=0.9"))
    result = json.loads(out)
    assert status == 0
    assert {"loss", "val_loss", "ema_val_loss"} <= set(result["metrics"])
    assert result["config"]["methods"] == ["ema:decay=0.9"]
    assert "steps = 4" in err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("config.json", "config.toml", "metrics.jsonl", "checkpoint", "checkpoint.previous")
    }
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


def test_resumed_training_ends_where_the_uninterrupted_one_does(capsys, tmp_path):
    whole = json.loads(run(capsys, *train_words(tmp_path / "whole", "--steps", "4"))[1])
    # The schedule belongs to 4 steps, so the interrupted run is one of 4 steps as well: it is cut at its checkpoint.
    from narrowgauge.commands.train_config import merge
    from narrowgauge.commands.train_run import build_trainer

    config = merge(whole["config"], {"out": str(tmp_path / "cut")})
    (tmp_path / "cut").mkdir()
    build_trainer(config).fit(2)
    resumed = json.loads(run(capsys, *train_words(tmp_path / "cut", "--steps", "4", "--resume"))[1])
    assert resumed["metrics"]["val_loss"] == whole["metrics"]["val_loss"]


def test_resuming_under_other_settings_says_so(capsys, tmp_path):
    recipe = tmp_path / "mine.toml"
    words = train_words(tmp_path / "run", "--recipe", str(recipe))
    recipe.write_text('every = "int8/row"')
    run(capsys, *words, "--steps", "2")
    recipe.write_text('every = "int4/row"')
    status, _, err = run(capsys, *words, "--steps", "4", "--lr", "0.5", "--resume")
    assert status == 0
    assert "resumed with another lr: 0.5; before: 0.001" in err
    assert "resumed with another recipe_settings: {'name': 'mine', 'x_fprop': 'int4/row'" in err
    assert run(capsys, *words, "--steps", "4", "--lr", "0.5", "--resume")[2].count("resumed with") == 0


def test_train_says_what_belongs_to_a_method_and_is_not_done(capsys, tmp_path):
    err = run(capsys, *train_words(tmp_path / "eco", "--steps", "1", "--recipe", "eco"))[2]
    assert "eco asks for (nothing but GridWeights is done here): optim.AdamW(params, master='eco:e4m3fn/1x128')" in err
    err = run(capsys, *train_words(tmp_path / "dqt8", "--steps", "1", "--recipe", "dqt8"))[2]
    assert "weights are kept on the grid int8+sr by GridWeights" in err


def test_train_leaves_a_finished_run_alone(capsys, tmp_path):
    run(capsys, *train_words(tmp_path, "--steps", "2"))
    before = (tmp_path / "metrics.jsonl").read_text()
    status, _, err = run(capsys, *train_words(tmp_path, "--steps", "2"))
    assert status == 2
    assert "holds a run; continue it with --resume" in err
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_train_reads_a_toml_file_and_flags_go_over_it(tmp_path):
    from narrowgauge.commands.train_config import merge, read_toml

    file = tmp_path / "run.toml"
    file.write_text('steps = 7\nseq-len = 64\nlr = 1\nmethods = ["ema"]\n')
    config = merge(read_toml(file), {"steps": 9, "seed": None})
    assert (config.steps, config.seq_len, config.lr, config.seed) == (9, 64, 1.0, 0)
    assert config.methods == ("ema",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stpes = 3", "unknown key 'stpes'; did you mean 'steps'?"),
        ("steps = 'three'", "steps: expected int, got 'three'"),
        ("methods = 'ema'", "methods: expected a list of strings"),
        ("steps 3", "is not TOML"),
    ],
)
def test_train_refuses_a_wrong_file(text, message, capsys, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(text)
    status, _, err = run(capsys, "train", str(file))
    assert status == 2
    assert message in err


def test_diverged_training_is_status_1(capsys, monkeypatch):
    from narrowgauge.commands import train_run

    def diverge(*args, **options):
        raise FloatingPointError("loss is nan at step 3")

    monkeypatch.setattr(train_run, "train", diverge)
    status, _, err = run(capsys, "train")
    assert status == 1
    assert err.splitlines()[-1] == "narrowgauge train: loss is nan at step 3"


def test_a_reader_that_has_enough_is_no_error():
    paths = [path for path in sys.path if path]
    code = (
        f"import sys\nsys.path[:0] = {paths!r}\nfrom narrowgauge.cli import main\nsys.exit(main(['formats', '--json']))"
    )
    done = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout is not None
    assert done.stderr is not None
    done.stdout.close()
    err = done.stderr.read()
    done.stderr.close()
    assert (done.wait(), err) == (0, b"")


def test_examples_of_the_readme_run_as_written(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names = {"__name__": "readme"}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert len(examples) == 2
    out = capsys.readouterr().out
    # What the README shows of the second one, without its line breaks.
    (shown,) = re.findall(r"```\n(cast as .*?)\n  …\n```", readme, re.DOTALL)
    assert " ".join(shown.split()) in " ".join(out.split())


def test_commands_of_the_readme_exist():
    from narrowgauge.cli import build_parser

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) for line in block.splitlines()]
    commands = [line.split("#")[0].split() for line in lines if line.startswith("narrowgauge ")]
    assert {words[1] for words in commands} == set(COMMANDS)
    for words in commands:
        assert build_parser().parse_known_args(words[1:])[1] == []
