"""The trainer's monitor: no bit of the run changes, loggers get its summaries, a resumed run goes on with its rows."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.formats import parse
from narrowgauge.nn import SLOTS, Recipe, convert
from narrowgauge.numerics import TensorMonitor
from narrowgauge.numerics.monitors.rows import read_rows
from narrowgauge.train import History, JsonlLogger, Method, Trainer
from narrowgauge.train.data import Batch

MakeTrainer = Callable[..., Trainer]
Weights = Callable[[Trainer], Tensor]


def small(**settings: object) -> TensorMonitor:
    return TensorMonitor(["e4m3fn", "nvfp4"], **{"every": 2, "sample": 256} | settings)


def test_a_monitored_run_has_the_same_bits(weights: Weights, make_trainer: MakeTrainer) -> None:
    settings = {"grad_accumulation": 2, "eval_every": 2}
    plain, watched = make_trainer(**settings), make_trainer(monitor=small(), **settings)
    for trainer in (plain, watched):
        trainer.fit(5)
    assert torch.equal(weights(plain), weights(watched))
    assert watched.monitor is not None
    assert {row.step for row in watched.monitor.rows} == {0, 2, 4}
    assert not any(module._forward_hooks for module in watched.model.modules())


def test_quantised_layers_that_round_stochastically_have_the_same_bits_too(
    weights: Weights, make_trainer: MakeTrainer
) -> None:
    class Convert(Method):
        name = "convert"

        def surgery(self, model: nn.Module) -> tuple[nn.Module, None]:
            return convert(model, Recipe(name="rounds", **dict.fromkeys(SLOTS, parse("e4m3fn/row+sr")))), None

    plain, watched = make_trainer(methods=[Convert()]), make_trainer(methods=[Convert()], monitor=small())
    for trainer in (plain, watched):
        trainer.fit(3)
    assert torch.equal(weights(plain), weights(watched))
    assert watched.monitor is not None
    assert {row.role for row in watched.monitor.rows} == {"weight", "activation", "gradient"}


def test_summaries_reach_the_loggers_at_the_steps_that_are_observed(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    history = History()
    trainer = make_trainer(monitor=small(), logger=[history, JsonlLogger(tmp_path / "log.jsonl")])
    trainer.fit(4)
    assert history.steps("monitor/weight/e4m3fn/sqnr_db") == [1, 3]
    assert history.steps("monitor/gradient/delayed_miss_max") == [3]
    record = history.records[0]
    assert trainer.monitor is not None
    rows = [row for row in trainer.monitor.rows if (row.step, row.role, row.scheme) == (0, "activation", "nvfp4")]
    assert record["monitor/activation/nvfp4/sqnr_db_min"] == min(row.sqnr_db for row in rows)
    assert record["monitor/activation/nvfp4/sqnr_db"] == pytest.approx(sum(row.sqnr_db for row in rows) / len(rows))
    assert record["monitor/activation/nvfp4/underflow_max"] == max(row.metrics["underflow"] or 0 for row in rows)
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert line["monitor/weight/e4m3fn/sqnr_db"] == record["monitor/weight/e4m3fn/sqnr_db"]


def test_weights_are_those_before_the_step_and_evaluation_is_not_looked_at(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(monitor=small(every=1), eval_every=1)
    before = float(trainer.model.lm_head.weight.detach().abs().max())
    trainer.fit(1)
    assert trainer.monitor is not None
    rows = [row for row in trainer.monitor.rows if (row.layer, row.role) == ("lm_head", "weight")]
    assert rows[0].amax == before
    assert len(rows) == 2
    (activation,) = (tensor for tensor in trainer.monitor.report().tensors if tensor.info.name == "lm_head.activation")
    assert activation.info.shape == (4, 16, 16)


def test_true_and_schemes_stand_for_a_monitor(make_trainer: MakeTrainer) -> None:
    default, given, one = (make_trainer(monitor=choice).monitor for choice in (True, ["int8/row", "mxfp8"], "int8"))
    assert isinstance(default, TensorMonitor)
    assert default.every == 100
    assert given is not None
    assert [str(scheme) for scheme in given.schemes] == ["int8/row", "mxfp8_e4m3"]
    assert one is not None
    assert [str(scheme) for scheme in one.schemes] == ["int8"]
    for nothing in (None, False):
        trainer = make_trainer(monitor=nothing)
        assert trainer.monitor is None
        assert not any(name.startswith("monitor") for name in trainer.fit(1))


def test_other_choices_are_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(TypeError, match="monitor: expected True, a TensorMonitor or schemes such as"):
        make_trainer(monitor=3)
    with pytest.raises(ValueError, match="format: unknown name 'e4m3fm'"):
        make_trainer(monitor=["e4m3fm"])


def test_a_resumed_run_goes_on_with_the_rows(weights: Weights, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = make_trainer(monitor=small(path=tmp_path / "whole.jsonl"))
    whole.fit(8)
    settings = {"save_every": 3, "save_path": tmp_path / "checkpoint"}
    killed = make_trainer(monitor=small(path=tmp_path / "parts.jsonl"), **settings)
    killed.fit(3)
    killed.save_path = None
    killed.fit(5)  # the checkpoint is that of step 3; the row of step 4 is there already
    resumed = make_trainer(monitor=small(path=tmp_path / "parts.jsonl"))
    resumed.resume(tmp_path / "checkpoint")
    resumed.fit(8)
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.monitor is not None
    assert resumed.monitor is not None
    assert resumed.monitor.rows == whole.monitor.rows == read_rows(tmp_path / "parts.jsonl")


def test_a_checkpoint_serves_with_and_without_a_monitor(
    weights: Weights, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    make_trainer(monitor=small(), save_every=2, save_path=tmp_path / "checkpoint").fit(2)
    plain, watched = make_trainer(), make_trainer(monitor=small())
    for trainer in (plain, watched):
        trainer.resume(tmp_path / "checkpoint")
        trainer.fit(4)
    assert torch.equal(weights(plain), weights(watched))
    assert watched.monitor is not None
    assert {row.step for row in watched.monitor.rows} == {2}


def test_the_step_at_which_a_run_blows_up_is_in_the_rows(make_trainer: MakeTrainer) -> None:
    class Explodes(Method):
        name = "explodes"

        def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
            return model(batch["input_ids"]).square().mean() * math.nan, {}

    trainer = make_trainer(methods=[Explodes()], monitor=small(every=1))
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        trainer.fit(2)
    assert trainer.monitor is not None
    assert any(math.isnan(row.amax) for row in trainer.monitor.rows if row.role == "gradient")
    assert not any(module._forward_hooks for module in trainer.model.modules())


def test_the_report_of_a_run_is_a_page(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(monitor=small())
    trainer.fit(3)
    assert trainer.monitor is not None
    found = trainer.monitor.report()
    found.html(tmp_path / "monitor.html")
    text = (tmp_path / "monitor.html").read_text()
    assert "layers.1.mlp.down_proj.gradient" in text
    assert "SQNR over the steps: activations, mean of the layers" in text
    assert set(found.best("role")) == {"weight", "activation", "gradient"}
