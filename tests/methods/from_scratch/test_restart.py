from pathlib import Path

import pytest
import torch

from narrowgauge.methods.from_scratch import Rewarmed, restart
from narrowgauge.train import Constant, History, Llama, LlamaConfig, Trainer, WarmupCosine
from narrowgauge.train.tree import flatten
from narrowgauge.train.windows import WindowStream

SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
WINDOWS = [bytes((7 * row + 3 * column * column) % 251 for column in range(9)) for row in range(40)]
STEPS, HALF = 14, 6
"""Batches of 4 of 40 windows: an epoch has 10 steps, so both the stop and the end are inside one."""


def make(rate: object = None, windows: list[bytes] = WINDOWS) -> tuple[Trainer, History]:
    history = History()
    model = Llama(SMALL, seed=0)
    data = WindowStream(windows, windows[:4], batch_size=4, seq_len=8, seed=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    schedule = WarmupCosine(1e-2, STEPS, 2) if rate is None else rate
    return Trainer(model, data, optimizer, schedule=schedule, logger=history), history  # type: ignore[arg-type]


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    return flatten({"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()})[1]


def same_bits(a: Trainer, b: Trainer) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A checkpoint in the middle of an epoch."""
    trainer, _ = make()
    trainer.fit(HALF)
    trainer.save(tmp_path / "half")
    return tmp_path / "half"


@pytest.fixture
def unbroken() -> tuple[Trainer, History]:
    trainer, history = make()
    trainer.fit(STEPS)
    return trainer, history


def test_with_everything_losses_rates_and_weights_are_those_of_the_unbroken_run(
    stopped: Path, unbroken: tuple[Trainer, History]
) -> None:
    trainer, history = make()
    restart(trainer, stopped)
    trainer.fit(STEPS)
    assert history["loss"] == unbroken[1]["loss"][HALF:]
    assert history["lr"] == unbroken[1]["lr"][HALF:]
    assert same_bits(trainer, unbroken[0])


def test_a_run_that_is_stopped_twice_is_the_unbroken_run(
    stopped: Path, unbroken: tuple[Trainer, History], tmp_path: Path
) -> None:
    second, third = make()[0], make()[0]
    restart(second, stopped)
    second.fit(HALF + 5)
    second.save(tmp_path / "later")
    restart(third, tmp_path / "later")
    third.fit(STEPS)
    assert same_bits(third, unbroken[0])


def test_saving_what_was_loaded_gives_the_same_bytes(stopped: Path, tmp_path: Path) -> None:
    trainer, _ = make()
    restart(trainer, stopped)
    trainer.save(tmp_path / "again")
    for file in sorted(path.name for path in stopped.glob("*.safetensors")):
        assert (stopped / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    assert len(list(stopped.glob("*.safetensors"))) >= 2


def test_each_window_is_read_once_an_epoch_across_the_boundary(stopped: Path) -> None:
    def rows(trainer: Trainer, count: int) -> list[bytes]:
        return [bytes(row.tolist()) for _ in range(count) for row in next(trainer.data)["input_ids"]]

    first, resumed, without = make()[0], make()[0], make()[0]
    before = rows(first, HALF)
    restart(resumed, stopped)
    assert sorted(before + rows(resumed, 10 - HALF)) == sorted(window[:-1] for window in WINDOWS)
    restart(without, stopped, without=("data",))
    assert rows(without, HALF) == before


def test_without_the_optimizer_the_first_loss_is_the_same_and_the_second_is_not(
    stopped: Path, unbroken: tuple[Trainer, History]
) -> None:
    trainer, history = make()
    restart(trainer, stopped, without=("optimizer",))
    assert trainer.step == HALF
    assert not trainer.optimizer.state
    trainer.fit(STEPS)
    expected = unbroken[1]["loss"][HALF:]
    assert history["loss"][0] == expected[0]
    assert history["loss"][1] != expected[1]
    assert history["lr"] == unbroken[1]["lr"][HALF:]


def test_the_first_update_without_moments_moves_every_weight_by_the_rate(stopped: Path) -> None:
    trainer, history = make(Constant(1e-2))
    trainer.optimizer.param_groups[0]["weight_decay"] = 0.0
    restart(trainer, stopped, without=("optimizer",))
    old = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.fit(HALF + 1)
    for name, parameter in trainer.model.named_parameters():
        moved, gradient = (parameter - old[name]).abs(), parameter.grad
        assert gradient is not None
        torch.testing.assert_close(
            moved[gradient.abs() > 1e-4],
            torch.tensor(1e-2).expand(moved.shape)[gradient.abs() > 1e-4],
            rtol=1e-2,
            atol=1e-5,
        )
    assert history["lr"] == [1e-2]


def test_unknown_parts_and_trainers_that_have_trained_are_refused(stopped: Path) -> None:
    trainer, _ = make()
    with pytest.raises(ValueError, match="without: unknown part 'weights'; expected some of optimizer, data, methods"):
        restart(trainer, stopped, without=("weights",))
    trainer.fit(1)
    with pytest.raises(ValueError, match="trainer: expected a new one, got one that has done 1 steps"):
        restart(trainer, stopped)


def test_what_is_left_out_may_be_of_another_run_and_what_is_restored_may_not(stopped: Path) -> None:
    with pytest.raises(ValueError, match="data: the saved position belongs to"):
        restart(make(windows=WINDOWS[:20])[0], stopped)
    restart(make(windows=WINDOWS[:20])[0], stopped, without=("data",))


def test_a_truncated_checkpoint_is_refused(stopped: Path) -> None:
    file = stopped / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="damaged"):
        restart(make()[0], stopped)


def test_a_model_with_more_or_fewer_tensors_is_refused(stopped: Path) -> None:
    trainer, _ = make()
    trainer.model.register_buffer("extra", torch.zeros(1))
    with pytest.raises(ValueError, match="model: extra is absent in the checkpoint"):
        restart(trainer, stopped)


def test_the_rate_rises_again_from_the_restart_on() -> None:
    plain = WarmupCosine(1.0, 100, 5)
    rate = Rewarmed(plain, start=50, steps=10)
    assert [rate(step) for step in range(50)] == [plain(step) for step in range(50)]
    assert [rate(step) / plain(step) for step in range(50, 60)] == pytest.approx([n / 10 for n in range(1, 11)])
    assert [rate(step) for step in range(59, 100)] == [plain(step) for step in range(59, 100)]


@pytest.mark.parametrize(("start", "steps", "message"), [(-1, 5, "start: expected 0"), (3, 0, "steps: expected at")])
def test_impossible_warm_ups_are_refused(start: int, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rewarmed(Constant(1.0), start=start, steps=steps)


def test_a_horizon_that_grows_by_the_steps_done_makes_the_rate_jump() -> None:
    plain, stretched = WarmupCosine(1.0, 300, 15), WarmupCosine(1.0, 450, 15)
    assert stretched(150) > 1.2 * plain(149) > 1.2 * plain(150)
