"""A run of the suite `recipes`: its model, and that it can be stopped anywhere and ends at the same bits."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from narrowgauge.bench import recipes_run
from narrowgauge.bench.recipes_run import (
    MOVED,
    Bf16Autocast,
    RecipeResult,
    RecipeRun,
    RecipeSettings,
    definition,
    make_model,
    train_run,
)
from narrowgauge.bench.training_run import PERTURBED, read_result
from narrowgauge.nn import QuantLinear, get_recipe, recipe
from narrowgauge.train import ByteCorpus

SETTINGS = RecipeSettings(
    dim=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    ffn_dim=32,
    seq_len=16,
    batch_size=2,
    steps=7,
    evaluations=2,
    curve_batches=2,
    final_windows=32,
    lr=1e-2,
)
STOP_AT = 5
STOCHASTIC = recipe("drawn", every="int8/row+sr")
GRID = recipe("grid", w="int8", update="int8+sr")
CASES = {
    "fp32": None,
    "bf16": None,
    PERTURBED: None,
    MOVED: None,
    "fp8_row": get_recipe("fp8_row"),
    "drawn": STOCHASTIC,
    "grid": GRID,
}


class Stopper:
    """A logger that interrupts the run after a step; `first` is where the run began."""

    def __init__(self, at: int | None = None, how=lambda: (_ for _ in ()).throw(KeyboardInterrupt)) -> None:
        self.at, self.how, self.first = at, how, -1

    def start(self, first: int, last: int) -> None:
        self.first = first

    def log(self, step: int, metrics) -> None:
        if step == self.at:
            self.how()

    def stop(self) -> None:
        """Nothing to close."""


def text_file(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(200)))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> ByteCorpus:
    return ByteCorpus(text_file(tmp_path_factory.mktemp("corpus")))


def train(name: str, corpus, folder: Path, *, seed: int = 1, logger=None, settings=SETTINGS) -> RecipeResult:
    run = RecipeRun(seed, name, definition(CASES[name]))
    return train_run(run, settings, corpus, folder, recipe=CASES[name], save_every=2, logger=logger)


def numbers(result) -> tuple:
    return result.final_loss, result.train_curve, result.val_curve, result.sqnr_db


@pytest.mark.parametrize("name", CASES)
def test_interrupted_run_goes_on_to_the_same_bits(name: str, corpus, tmp_path) -> None:
    whole = train(name, corpus, tmp_path / "whole")
    stopper, rest = Stopper(STOP_AT), Stopper()
    with pytest.raises(KeyboardInterrupt):
        train(name, corpus, tmp_path / "torn", logger=stopper)
    torn = train(name, corpus, tmp_path / "torn", logger=rest)
    assert (stopper.first, rest.first) == (0, 4)
    assert numbers(torn) == numbers(whole)


def test_result_reads_back(corpus, tmp_path) -> None:
    result = train("fp8_row", corpus, tmp_path)
    assert read_result(result.run, tmp_path, RecipeResult) == result
    assert set(result.sqnr_db) == {"x_fprop", "w_fprop", "g_dgrad", "w_dgrad", "g_wgrad", "x_wgrad"}
    assert all(20 < value < 40 for value in result.sqnr_db.values())
    assert train("fp32", corpus, tmp_path / "fp32").sqnr_db == {}


def test_diverging_run_is_a_result(corpus, tmp_path) -> None:
    wild = dataclasses.replace(SETTINGS, lr=1e20, warmup=0.0)
    result = train("fp8_row", corpus, tmp_path, settings=wild)
    assert result.final_loss is None
    assert "step" in result.note
    assert result.sqnr_db == {}


def test_linear_layers_but_the_last_follow_the_recipe() -> None:
    model = make_model(RecipeRun(0, "fp8_row"), SETTINGS, get_recipe("fp8_row"))
    kinds = {name: type(m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert kinds.pop("lm_head") is torch.nn.Linear
    assert set(kinds.values()) == {QuantLinear}


def test_runs_of_a_seed_start_from_the_same_weights() -> None:
    fp32, fp8, near, moved, other = (
        torch.nn.utils.parameters_to_vector(make_model(RecipeRun(seed, name), SETTINGS, CASES[name]).parameters())
        for seed, name in ((3, "fp32"), (3, "fp8_row"), (3, PERTURBED), (3, MOVED), (4, "fp32"))
    )
    assert torch.equal(fp32, fp8)
    assert not torch.equal(fp32, other)
    assert 0 < ((near - fp32).abs() / fp32.abs()).max() < 1e-6
    assert 1e-2 < ((moved - fp32).abs() / fp32.abs()).max() < 1e-1


def test_bf16_without_a_recipe_is_autocast() -> None:
    model = make_model(RecipeRun(0, "bf16"), SETTINGS, None)
    assert isinstance(model, Bf16Autocast)
    seen = []
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda layer, args, out: seen.append(out.dtype))
    logits = model(torch.zeros((1, 4), dtype=torch.int64))
    assert (seen, logits.dtype) == ([torch.bfloat16], torch.float32)


def test_weights_with_an_update_scheme_stay_on_its_grid(corpus, tmp_path, monkeypatch) -> None:
    seen = {}

    def kept(model, *rest):
        layer = model.layers[0].mlp.up_proj
        seen.update(levels=layer.weight.unique().numel(), head=model.lm_head.weight.unique().numel())
        return {}

    monkeypatch.setattr(recipes_run, "operand_sqnr", kept)
    train("grid", corpus, tmp_path)
    assert seen["levels"] <= 256 < seen["head"]


def test_model_without_a_recipe_is_none_but_a_baselines() -> None:
    with pytest.raises(ValueError, match="recipe: 'fp8_row' is none of the baselines"):
        make_model(RecipeRun(0, "fp8_row"), SETTINGS, None)


def test_words_about_a_recipe_are_no_part_of_its_definition() -> None:
    one, two, other = (
        definition(recipe("mine", source, x_fprop=scheme))
        for source, scheme in (("a", "e4m3fn/row"), ("b", "e4m3fn/row"), ("a", "e4m3fn"))
    )
    assert one == two == '{ "x_fprop": "e4m3fn/row" }'
    assert one != other


def test_runs_have_folders_of_their_own() -> None:
    runs = [RecipeRun(s, name, said) for s in (0, 1) for name in ("a/1x32", "a_1x32", "b") for said in ("", "{ }")]
    assert len({run.name for run in runs}) == len(runs)
    assert all(Path(run.name).name == run.name for run in runs)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_process_goes_on_to_the_same_bits(tmp_path) -> None:
    here = Path(__file__)
    code = "import runpy, sys; from pathlib import Path\nrunpy.run_path(sys.argv[1])['killed_run'](Path(sys.argv[2]))\n"
    environment = {**os.environ, "PYTHONPATH": str(here.parents[2] / "src")}
    command = [sys.executable, "-c", code, str(here), str(tmp_path)]
    assert subprocess.run(command, check=False, env=environment).returncode == -signal.SIGKILL
    corpus, rest = ByteCorpus(tmp_path / "text.txt"), Stopper()
    torch.set_num_threads(1)
    torn = train("drawn", corpus, tmp_path / "torn", logger=rest)
    assert rest.first == 4
    assert numbers(torn) == numbers(train("drawn", corpus, tmp_path / "whole"))


def killed_run(folder: Path) -> None:
    """What the child of the test above does: train, and be killed in the middle."""
    torch.set_num_threads(1)
    stopper = Stopper(STOP_AT, lambda: os.kill(os.getpid(), signal.SIGKILL))
    train("drawn", ByteCorpus(text_file(folder)), folder / "torn", logger=stopper)
