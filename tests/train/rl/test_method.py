"""GRPO, PPO and DPO in the ordinary trainer."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from narrowgauge.nn import QuantLinear, convert
from narrowgauge.train import Llama, LlamaConfig, Trainer
from narrowgauge.train.data import Batch
from narrowgauge.train.rl import GRPO, PPO, PolicyGradient, Preference, RolloutSource
from narrowgauge.train.tokens import VOCAB_SIZE

SMALL = LlamaConfig(
    vocab_size=VOCAB_SIZE, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16
)
MakeSource = Callable[..., RolloutSource]
Train = Callable[..., Trainer]


class Pairs:
    """The same batch of one preferred and one rejected row, and a pair that does not count, for ever."""

    def __init__(self) -> None:
        ids = torch.randint(0, 256, (4, 6), generator=torch.Generator().manual_seed(0))
        labels = ids.roll(-1, 1)
        labels[:, [0, -1]] = -100
        self.batch: Batch = {"input_ids": ids, "labels": labels, "valid": torch.tensor([True, False] * 2)}

    def __next__(self) -> Batch:
        return dict(self.batch)

    def validation(self) -> list[Batch]:
        return [self.batch]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def mean_reward(source: RolloutSource, rounds: range) -> float:
    return sum(source.rollout(index)["reward"].mean().item() for index in rounds) / len(rounds)


@pytest.mark.parametrize("method", [GRPO(), PPO()])
def test_the_reward_rises(make_source: MakeSource, train: Train, method: PolicyGradient) -> None:
    source = make_source(group_size=8)
    trainer = train(source, [method], steps=0, lr=3e-2)
    before = mean_reward(source, range(100, 104))
    trainer.fit(25)
    assert before < 0.7
    assert mean_reward(source, range(100, 104)) > before + 0.2


@pytest.mark.parametrize("method", [GRPO(kl_coef=0.1), PPO(kl_coef=0.1)])
def test_the_first_step_has_ratio_1_and_divergence_0(
    make_source: MakeSource, train: Train, method: PolicyGradient
) -> None:
    trainer = train(make_source(inner_steps=2), [method], steps=0)
    first = trainer.fit(1)
    assert first["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert first.get("kl", 0.0) == pytest.approx(0.0, abs=1e-7)
    assert {"reward", "completion_length", "clip_fraction"} <= first.keys()
    second = trainer.fit(2)
    assert second["reward"] == first["reward"]  # the same rollouts
    assert abs(second["ratio"] - 1) > 1e-4


def test_equal_rewards_leave_the_weights_as_they_are(make_source: MakeSource, train: Train) -> None:
    trainer = train(make_source(rewards={"same": lambda _item, _completion: 0.3}), [GRPO()], steps=0)
    before = weights(trainer)
    assert trainer.fit(2)["grad_norm"] == 0
    torch.testing.assert_close(weights(trainer), before, rtol=0, atol=0)


def test_a_penalty_keeps_the_policy_nearer_to_where_it_began(make_source: MakeSource, train: Train) -> None:
    def divergence(kl_coef: float) -> float:
        method = GRPO(kl_coef=kl_coef)
        trainer = train(make_source(group_size=8), [method], steps=15, lr=3e-2)
        return trainer.fit(16)["kl"]

    assert divergence(5.0) < 0.5 * divergence(1e-6)


def test_without_a_penalty_no_reference_is_kept(make_source: MakeSource, train: Train) -> None:
    free, held = GRPO(), GRPO(kl_coef=0.1)
    train(make_source(), [free], steps=1)
    trainer = train(make_source(), [held], steps=1)
    assert free.reference is None
    assert free.state_dict() == {}
    assert held.reference is not None
    assert not any(p.requires_grad for p in held.reference.model.parameters())
    before = Llama(trainer.model.config, seed=0).state_dict()
    torch.testing.assert_close(held.state_dict()["reference"], dict(before), rtol=0, atol=0)
    with pytest.raises(ValueError, match="kl_coef: the saved run and this one"):
        free.load_state_dict(held.state_dict())


@pytest.mark.parametrize("settings", [{"cls": GRPO, "kl_coef": 0.1}, {"cls": PPO, "kl_coef": 0.1}])
def test_a_run_resumes_within_a_round_bit_for_bit(
    make_source: MakeSource, train: Train, tmp_path: Path, settings: dict[str, Any]
) -> None:
    chosen = dict(settings)
    cls = chosen.pop("cls")
    whole = train(make_source(inner_steps=2), [cls(**chosen)], steps=5)
    train(make_source(inner_steps=2), [cls(**chosen)], steps=3).save(tmp_path / "at3")
    resumed = Trainer(
        Llama(whole.model.config, seed=9),  # another beginning: the reference has to come from the checkpoint
        make_source(inner_steps=2),
        lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0),
        methods=[cls(**chosen)],
    )
    resumed.resume(tmp_path / "at3")
    resumed.fit(5)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_rollouts_are_written_by_the_model_after_surgery(make_source: MakeSource, train: Train) -> None:
    method = PPO()
    source = make_source()
    trainer = train(source, [method], steps=1)
    assert hasattr(trainer.model, "value_head")
    assert trainer.model.get_parameter("value_head.weight").abs().max() > 0
    assert method.surgery(trainer.model)[0] is trainer.model  # a second phase finds the head


def test_policy_gradients_need_rollouts(train: Train) -> None:
    with pytest.raises(TypeError, match="data: GRPO expects a RolloutSource, got Pairs"):
        train(Pairs(), [GRPO()], steps=1)
    with pytest.raises(TypeError, match="abstract"):
        PolicyGradient()  # type: ignore[abstract]


def test_preferences_begin_at_log_2_and_widen_the_margin(train: Train) -> None:
    trainer = train(Pairs(), [Preference(beta=1.0)], steps=0)
    first = trainer.fit(1)
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert first["margin"] == 0
    last = trainer.fit(8)
    assert last["margin"] > 1
    assert last["loss"] < 0.4


def test_preferences_need_two_halves() -> None:
    method = Preference()
    model = Llama(SMALL)
    method.attach(model)
    with pytest.raises(ValueError, match="got 3 rows in all"):
        method.loss(model, {name: tensor[:3] for name, tensor in Pairs().batch.items()})


@pytest.mark.parametrize("recipe", ["fp8_row", "mxfp8"])
def test_policy_and_reference_work_under_a_recipe(make_source: MakeSource, recipe: str) -> None:
    model = convert(Llama(SMALL, seed=0), recipe)
    method = GRPO(kl_coef=0.1)
    trainer = Trainer(model, make_source(), torch.optim.AdamW(model.parameters(), lr=1e-2), methods=[method])
    first = trainer.fit(1)
    assert first["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert first["kl"] == pytest.approx(0.0, abs=1e-7)
    assert method.reference is not None
    assert any(isinstance(module, QuantLinear) for module in method.reference.model.modules())
    assert trainer.fit(3)["kl"] > 0


def test_rewards_become_the_advantages_of_the_settings() -> None:
    rewards = torch.tensor([[0.0, 1.0, 1.0, 4.0]])
    centred = GRPO(scale_by_std=False).finish(torch.nn.Identity(), {}, rewards)["advantages"]
    assert centred.tolist() == [-1.5, -0.5, -0.5, 2.5]
    assert GRPO().finish(torch.nn.Identity(), {}, rewards)["advantages"][3] < 2
    model, _ = PPO().surgery(Llama(SMALL, seed=0))
    labels = torch.tensor([[5, 6, -100], [7, -100, -100]])
    batch = {"input_ids": torch.zeros_like(labels), "labels": labels, "old_logprobs": torch.zeros(2, 3)}
    with torch.no_grad():
        finished = PPO(lam=1.0).finish(model, batch, torch.tensor([[3.0, 1.0]]))
    assert finished["returns"].tolist() == [[3, 3, 0], [1, 0, 0]]
    white = finished["advantages"][labels != -100]
    assert white.mean().item() == pytest.approx(0, abs=1e-6)
    assert white.std(correction=0).item() == pytest.approx(1, rel=1e-5)
