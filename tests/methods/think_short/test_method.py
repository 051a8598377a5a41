from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.methods.think_short import ExponentialBudget, ThinkShort, in_words
from narrowgauge.nn import convert
from narrowgauge.optim import AdamW
from narrowgauge.train import METHODS, Batch, Llama, LlamaConfig, Trainer
from narrowgauge.train.generate import Rollouts, sample
from narrowgauge.train.rl import RolloutSource, group_advantages, matches_format, triangular_length
from narrowgauge.train.rl.rewards import Completion
from narrowgauge.train.tasks import Example, TaskSource
from narrowgauge.train.tokens import EOS, VOCAB_SIZE, decode

SMALL = LlamaConfig(
    vocab_size=VOCAB_SIZE, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16
)
SCHEDULE = ExponentialBudget(start=8, decay=0.5, interval=2)
PAIRS = [(a, b) for a in b"ab" for b in b"xy"]


def write(item: Example, budget: int) -> bytes:
    return item.prompt + b"|%d:" % budget


def rollouts(**settings: Any) -> RolloutSource:
    chosen = {"group_size": 4, "max_new_tokens": 6} | settings
    items = [Example(b"a", b"x"), Example(b"b", b"y")]
    rewards = {"right": lambda item, completion: float(completion.text.startswith(item.answer.decode()))}
    return RolloutSource(lambda _round: items, rewards, **chosen)


@cache
def writer() -> dict[str, Tensor]:
    """Weights that write one to five letters x or y and then end, whatever is asked."""
    answers = [Example(b"%c|%d:" % (letter, n + 2), b"%c" % other * n) for n in range(1, 6) for letter, other in PAIRS]
    model = Llama(SMALL, seed=0)
    data = TaskSource(answers, answers, batch_size=20, seq_len=12, seed=0)
    Trainer(model, data, lambda groups: torch.optim.AdamW(groups, lr=2e-2)).fit(40)
    return model.state_dict()


def trainer(method: ThinkShort, source: RolloutSource | None = None, seed: int | None = None) -> Trainer:
    """Of the writer, or of fresh weights with a ``seed``."""
    model = Llama(SMALL, seed=seed or 0)
    if seed is None:
        model.load_state_dict(writer())
    return Trainer(
        model,
        rollouts() if source is None else source,
        lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0),
        methods=[method],
    )


def weights(run: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def rolled(run: Trainer, index: int) -> Batch:
    assert isinstance(run.data, RolloutSource)
    return run.data.rollout(index)


def test_it_is_registered() -> None:
    assert METHODS["think_short"] is ThinkShort


def test_the_length_reward_is_a_triangle_about_the_budget() -> None:
    assert [triangular_length(length, 10) for length in (0, 10, 20, 21, 100)] == [0, 1, 0, 0, 0]
    for distance in range(11):
        assert triangular_length(10 - distance, 10) == pytest.approx(triangular_length(10 + distance, 10))
    for length in range(1, 25):  # continuous: no jump between neighbours
        assert abs(triangular_length(length, 10) - triangular_length(length - 1, 10)) < 0.1 + 1e-12


def test_prompt_and_reward_have_the_same_budget_round_by_round() -> None:
    method = ThinkShort(schedule=SCHEDULE, write=write)
    run = trainer(method)
    for index, budget in enumerate((8, 8, 4, 4, 2)):
        assert all(f"|{budget}:" in decode(row) for row in rolled(run, index)["input_ids"])
        item = method.budgeted(Example(b"a", b"x"), SCHEDULE(index))
        assert method.reward(item, Completion((1,) * (budget - 1), ended=True)) == 1
        assert method.reward(item, Completion((1,) * (budget // 2), ended=False)) == 0.5


def test_the_length_is_that_of_the_whole_completion_with_its_end() -> None:
    method = ThinkShort(schedule=ExponentialBudget(4, 1.0), write=write)
    item = method.budgeted(Example(b"a", b"x"), 4)
    assert method.reward(item, Completion.from_ids([1, 2, 3, EOS])) == 1
    assert method.reward(item, Completion.from_ids([1, 2, 3])) == 0.75
    assert ThinkShort(shape="band").reward(item, Completion.from_ids([1])) == 1


def test_a_step_logs_budget_and_rewards() -> None:
    run = trainer(ThinkShort(schedule=SCHEDULE, write=write, weight=0.5), rollouts(weights={"right": 2.0}))
    for step, budget in enumerate((8, 8, 4)):
        metrics = run.fit(step + 1)
        assert metrics["budget"] == budget
        total = 2 * metrics["reward_right"] + 0.5 * metrics["reward_length"]
        assert metrics["reward"] == pytest.approx(total, rel=1e-6)


def test_the_budget_follows_rounds_and_not_steps() -> None:
    run = trainer(ThinkShort(schedule=ExponentialBudget(8, 0.5, 1), write=write), rollouts(inner_steps=2))
    assert [run.fit(step)["budget"] for step in (1, 2, 3, 4, 5)] == [8, 8, 4, 4, 2]


def test_the_first_step_has_ratio_1_and_divergence_0() -> None:
    metrics = trainer(ThinkShort(schedule=SCHEDULE, write=write, kl_coef=0.1)).fit(1)
    assert metrics["ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["kl"] == pytest.approx(0, abs=1e-7)


def test_advantages_sum_to_zero_and_ignore_scale_and_shift() -> None:
    run = trainer(ThinkShort(schedule=ExponentialBudget(4, 1.0), write=write))
    batch = rolled(run, 0)
    advantages, rewards = batch["advantages"].view(2, 4), batch["reward"].view(2, 4)
    assert advantages.abs().max() > 0.5
    torch.testing.assert_close(advantages.sum(1), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(group_advantages(3 * rewards + 7, eps=0.0), advantages, rtol=0.01, atol=1e-3)


def test_prompt_and_what_follows_the_end_carry_no_label() -> None:
    run = trainer(ThinkShort(schedule=SCHEDULE, write=write))
    batch = rolled(run, 0)
    assert (batch["labels"][:, : len(b"a|8:") - 1] == -100).all()
    for row in batch["labels"]:
        labelled = row[row != -100].tolist()
        assert EOS not in labelled[:-1]


def test_beyond_twice_the_budget_nothing_shortens() -> None:
    """There every length reward is 0: the failure of a budget that falls too far at once."""

    def without_end(policy: nn.Module, prompts: Any, group: int, generator: torch.Generator) -> Rollouts:
        return sample(policy, prompts, num_samples=group, max_new_tokens=5, eos=None, generator=generator)

    source = rollouts(sampler=without_end)
    source.rewards = {"form": matches_format(".*")}
    run = trainer(ThinkShort(schedule=ExponentialBudget(2, 1.0), write=write), source)
    before = weights(run)
    assert rolled(run, 0)["reward_length"].tolist() == [0.0] * 8
    assert run.fit(1)["grad_norm"] == 0
    torch.testing.assert_close(weights(run), before, rtol=0, atol=0)


@pytest.mark.parametrize("budget", [2, 6])
def test_completions_move_towards_the_budget_from_both_sides(budget: int) -> None:
    run = trainer(ThinkShort(schedule=ExponentialBudget(budget, 1.0), write=write, weight=1.0), rollouts(group_size=16))
    before = run.fit(1)
    after = run.fit(15)
    assert after["reward_length"] > before["reward_length"] + 0.15
    assert (after["completion_length"] - before["completion_length"]) * (1 if budget == 6 else -1) > 0.3


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_run_resumes_within_a_round_bit_for_bit(tmp_path: Path, kl_coef: float) -> None:
    def make(seed: int | None) -> Trainer:
        method = ThinkShort(schedule=SCHEDULE, write=write, kl_coef=kl_coef)
        return trainer(method, rollouts(inner_steps=2), seed)

    whole, half, resumed = make(None), make(None), make(9)
    whole.fit(7)
    half.fit(3)
    half.save(tmp_path / "at3")
    resumed.resume(tmp_path / "at3")
    assert resumed.fit(7)["budget"] == 4
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_another_schedule_is_refused() -> None:
    method = ThinkShort(schedule=SCHEDULE)
    with pytest.raises(ValueError, match="schedule: the saved run has ExponentialBudget"):
        ThinkShort().load_state_dict(method.state_dict())


def test_the_callers_source_is_left_alone() -> None:
    source = rollouts()
    run = trainer(ThinkShort(schedule=SCHEDULE, write=write), source)
    run.fit(2)
    assert list(source.rewards) == ["right"]
    assert source.position == 0
    assert source.prompts(0)[0].prompt == b"a"


def test_the_budget_in_words() -> None:
    assert in_words(Example(b"1+1?", b"2"), 87) == b"1+1?\nThink in at most 87 tokens.\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThinkShort(shape="square"), "shape: expected one of triangle, band, got 'square'"),
        (lambda: ThinkShort(weight=-1.0), "weight: expected 0 or more, got -1.0"),
    ],
)
def test_other_settings_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_source_with_a_length_reward_of_its_own_is_refused() -> None:
    source = rollouts()
    source.rewards = {"length": lambda item, completion: 1.0}
    with pytest.raises(ValueError, match="data: the source has a reward 'length' already"):
        trainer(ThinkShort(), source)


def test_it_works_under_a_recipe_with_a_compressed_state() -> None:
    model = convert(Llama(SMALL, seed=0), "fp8_row")
    method = ThinkShort(schedule=SCHEDULE, write=write, kl_coef=0.1)
    run = Trainer(model, rollouts(), lambda groups: AdamW(groups, lr=1e-2, state="log8"), methods=[method])
    assert run.fit(1)["ratio"] == pytest.approx(1, abs=1e-6)
    assert run.fit(3)["kl"] > 0
