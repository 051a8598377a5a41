"""Early stopping, mixed precision, compilation and scaled rates inside a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.nn import convert
from narrowgauge.train import ConsoleLogger, History, JsonlLogger, Llama, LlamaConfig, Method, Trainer, load_checkpoint
from narrowgauge.train.early_stopping import EarlyStopping
from narrowgauge.train.loggers import CsvLogger
from narrowgauge.train.method import ParameterGroup

MakeTrainer = Callable[..., Trainer]
Weights = Callable[[Trainer], Tensor]
WIDE = LlamaConfig(dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=64, max_seq_len=16)


def adamw(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0)


def test_early_stopping_ends_the_run_and_leaves_a_checkpoint(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    history = History()
    settings: dict[str, Any] = {"eval_every": 2, "save_every": 50, "save_path": tmp_path / "last"}
    trainer = make_trainer(early_stopping=EarlyStopping(patience=2, min_delta=50.0), logger=history, **settings)
    metrics = trainer.fit(50)
    assert (trainer.step, trainer.stopped) == (6, True)
    assert history.steps("val_loss") == [2, 4, 6]
    assert metrics["val_loss"] > 0
    assert load_checkpoint(tmp_path / "last")["loop"]["early_stopping"]["waited"] == 2
    assert trainer.fit(50) == {}
    resumed = make_trainer(early_stopping=EarlyStopping(patience=2, min_delta=50.0), **settings)
    resumed.resume(tmp_path / "last")
    assert resumed.fit(50) == {}
    assert resumed.step == 6


def test_a_resumed_run_stops_where_the_unbroken_one_does(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def build() -> Trainer:
        return make_trainer(early_stopping=EarlyStopping(patience=3, min_delta=50.0), eval_every=2)

    straight, first, second = build(), build(), build()
    straight.fit(50)
    first.fit(5)  # evaluated at its end too, which does not count
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(50)
    assert straight.step == second.step == 8
    assert straight.early_stopping == second.early_stopping


def test_a_checkpoint_with_another_rule_of_stopping_is_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def build(stopping: EarlyStopping | None) -> Trainer:
        return make_trainer(early_stopping=stopping, eval_every=1)

    build(None).save(tmp_path / "without")
    build(EarlyStopping()).save(tmp_path / "with")
    with pytest.raises(ValueError, match=r"early_stopping: the run saved at .*with stops early, this one does not"):
        build(None).resume(tmp_path / "with")
    with pytest.raises(ValueError, match=r"early_stopping: the run saved at .* does not stop early, this one does"):
        build(EarlyStopping()).resume(tmp_path / "without")
    with pytest.raises(ValueError, match="early_stopping: the saved run had patience=3, this one 1"):
        build(EarlyStopping(patience=1)).resume(tmp_path / "with")


@pytest.mark.parametrize("recipe", [None, "fp8_row"])
def test_bfloat16_forward_trains_float32_weights(make_trainer: MakeTrainer, recipe: str | None) -> None:
    def build(dtype: str | None) -> tuple[Trainer, list[torch.dtype]]:
        model, seen = Llama(WIDE, seed=0), []
        if recipe is not None:
            convert(model, recipe)
        model.layers[0].mlp.down_proj.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        return make_trainer(model=model, optimizer=adamw, dtype=dtype), seen

    (narrow, seen), (wide, _) = build("bfloat16"), build(None)
    metrics, reference = narrow.fit(10), wide.fit(10)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 and p.grad is not None for p in narrow.parameters)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in narrow.parameters)
    assert metrics["loss"] != reference["loss"]
    assert metrics["loss"] == pytest.approx(reference["loss"], abs=0.02)
    assert narrow.evaluate()["val_loss"] == pytest.approx(wide.evaluate()["val_loss"], abs=0.02)


def test_compile_keeps_names_and_numbers(
    weights: Weights, make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    trainer, plain = make_trainer(compile=True), make_trainer()
    assert compiled == [trainer.model]
    assert list(trainer.model.state_dict()) == list(plain.model.state_dict())


@pytest.mark.slow
def test_a_compiled_run_trains_like_a_plain_one(weights: Weights, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    compiled, plain = make_trainer(compile=True, eval_every=2), make_trainer(eval_every=2)
    metrics, reference = compiled.fit(3), plain.fit(3)
    for name in ("loss", "val_loss", "grad_norm"):
        assert metrics[name] == pytest.approx(reference[name], rel=1e-5)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    compiled.save(tmp_path / "last")
    plain = make_trainer()
    plain.resume(tmp_path / "last")
    assert torch.equal(weights(plain), weights(compiled))


def test_scaled_rates_give_every_parameter_a_group_and_reach_it(make_trainer: MakeTrainer) -> None:
    class Frozen(Method):
        def lr_scales(self, step: int) -> Mapping[str, float]:
            return {"embed_tokens.weight": 0.0, "norm.weight": float(step)}

    trainer = make_trainer(optimizer=adamw, methods=[Frozen()])
    assert len(trainer.optimizer.param_groups) == len(list(trainer.model.parameters()))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert trainer.fit(1)["lr"] == 1e-2
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before) - {"embed_tokens.weight", "norm.weight"}
    trainer.fit(2)
    assert not torch.equal(trainer.model.get_parameter("norm.weight"), before["norm.weight"])


def test_rates_scaled_by_one_change_no_bit(weights: Weights, make_trainer: MakeTrainer) -> None:
    class Ones(Method):
        def lr_scales(self, step: int) -> Mapping[str, float]:
            return {"norm.weight": 1.0}

    plain, scaled = make_trainer(optimizer=adamw), make_trainer(optimizer=adamw, methods=[Ones()])
    for trainer in (plain, scaled):
        trainer.fit(3)
    assert torch.equal(weights(plain), weights(scaled))


def test_a_ready_optimizer_is_refused_where_rates_are_scaled(make_trainer: MakeTrainer) -> None:
    class Scales(Method):
        def lr_scales(self, step: int) -> None:
            return None

    with pytest.raises(ValueError, match=r"optimizer: 'Scales' changes the parameter groups.* got a ready AdamW"):
        make_trainer(methods=[Scales()])


def test_no_logger_changes_a_bit(weights: Weights, make_trainer: MakeTrainer, tmp_path: Path) -> None:
    class Draws(History):
        def log(self, step: int, metrics: Mapping[str, float]) -> None:
            torch.manual_seed(step)
            torch.rand(step)

    loggers = [ConsoleLogger(every=1), JsonlLogger(tmp_path / "log.jsonl"), CsvLogger(tmp_path / "log.csv"), Draws()]
    history, plain = History(), History()
    watched = make_trainer(logger=[*loggers, history], eval_every=2, save_every=1, save_path=tmp_path / "last")
    silent = make_trainer(logger=plain, eval_every=2)
    for trainer in (watched, silent):
        trainer.fit(4)
    assert torch.equal(weights(watched), weights(silent))
    for name in ("loss", "val_loss", "grad_norm"):
        assert history[name] == plain[name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0}, "keep: expected at least 1, got 0"),
        ({"early_stopping": EarlyStopping()}, "early_stopping: expected together with eval_every above 0"),
        ({"dtype": "float16"}, "dtype: float16 would need"),
        ({"parallel": "zero3"}, "parallel: expected None, 'ddp' or 'fsdp2', got 'zero3'"),
        ({"parallel": "fsdp2", "monitor": True}, "monitor: cannot measure weights that are in shards"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(
    make_trainer: MakeTrainer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)
