from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.train import BatchSource, Llama, LlamaConfig
from narrowgauge.train.data import Batch
from narrowgauge.train.generate import Rollouts
from narrowgauge.train.rl import RolloutSource, exact_match, token_logprobs
from narrowgauge.train.rl.rewards import Completion
from narrowgauge.train.tasks import Example
from narrowgauge.train.tokens import EOS, PAD, VOCAB_SIZE

MakeSource = Callable[..., RolloutSource]
SMALL = LlamaConfig(
    vocab_size=VOCAB_SIZE, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16
)


def keep(policy: nn.Module, batch: Batch, rewards: Tensor) -> Batch:
    return batch | {"grouped": rewards}


def bound(source: RolloutSource, seed: int = 0) -> tuple[RolloutSource, Llama]:
    model = Llama(SMALL, seed=seed)
    source.bind(model, keep)
    return source, model


def scripted(policy: nn.Module, prompts: Any, num_samples: int, generator: torch.Generator) -> Rollouts:
    """For the prompts "a" and "bcd", two completions each: x · EOS, x y (cut off); y · EOS, nothing but EOS."""
    x, y = 120, 121
    ids = [[97, x, PAD, PAD], [97, x, PAD, PAD], [98, 99, 100, y], [98, 99, 100, PAD]]
    labels = [[x, EOS, -100, -100], [x, y, -100, -100], [-100, -100, y, EOS], [-100, -100, EOS, -100]]
    return Rollouts(torch.tensor(ids), torch.tensor(labels), torch.tensor([2, 2, 2, 1]))


def length(item: Example, completion: Completion) -> float:
    return float(len(completion))


def test_rewards_and_lengths_belong_to_their_rows(make_source: MakeSource) -> None:
    rewards = {"right": exact_match, "length": length}
    source, model = bound(make_source(rewards=rewards, weights={"length": 0.1}, group_size=2, sampler=scripted))
    batch = next(source)
    assert batch["reward_right"].tolist() == [1, 0, 1, 0]
    assert batch["reward_length"].tolist() == batch["completion_length"].tolist() == [1, 2, 1, 0]
    assert batch["reward"].tolist() == pytest.approx([1.1, 0.2, 1.1, 0.0])
    torch.testing.assert_close(batch["grouped"], batch["reward"].view(2, 2))
    with torch.no_grad():
        expected = token_logprobs(model, batch["input_ids"], batch["labels"])
    torch.testing.assert_close(batch["old_logprobs"], expected, rtol=0, atol=0)
    assert batch["old_logprobs"][2, :2].tolist() == [0.0, 0.0]


def test_a_real_round_has_the_prompts_and_their_groups(make_source: MakeSource) -> None:
    source, model = bound(make_source())
    assert isinstance(source, BatchSource)
    model.train()
    batch = next(source)
    assert model.training
    assert batch["input_ids"].shape == batch["labels"].shape == batch["old_logprobs"].shape
    assert batch["input_ids"][:4, 0].tolist() == [97] * 4
    assert batch["input_ids"][4:, :3].tolist() == [[98, 99, 100]] * 4
    assert (batch["labels"][4:, :2] == -100).all()
    assert not any(tensor.requires_grad for tensor in batch.values())
    assert "reward_ascii" not in batch  # the only reward is the reward


def test_a_round_is_a_function_of_policy_seed_and_round(make_source: MakeSource) -> None:
    first, second, other = (bound(make_source(seed=seed))[0] for seed in (1, 1, 2))
    torch.manual_seed(3)  # the global generator is not asked
    rounds = [next(first) for _ in range(2)]
    torch.testing.assert_close(next(second), rounds[0], rtol=0, atol=0)
    torch.testing.assert_close(second.rollout(1), rounds[1], rtol=0, atol=0)
    assert rounds[0]["labels"].tolist() != rounds[1]["labels"].tolist()
    assert next(other)["labels"].tolist() != rounds[0]["labels"].tolist()


def test_prompts_may_change_with_the_round(make_source: MakeSource) -> None:
    source, _ = bound(make_source(prompts=lambda index: [Example(bytes([65 + index]), b"")], inner_steps=2))
    assert [next(source)["input_ids"][0, 0].item() for _ in range(5)] == [65, 65, 66, 66, 67]


def test_a_batch_is_used_for_several_steps_and_survives_a_restart(make_source: MakeSource) -> None:
    source, _ = bound(make_source(inner_steps=2))
    first = next(source)
    state = source.state_dict()
    second = next(source)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    resumed, _ = bound(make_source(inner_steps=2), seed=5)  # a later policy, which would write something else
    resumed.load_state_dict(state)
    torch.testing.assert_close(next(resumed), second, rtol=0, atol=0)
    assert resumed.position == 2
    assert resumed.state_dict()["batch"] == {}
    with pytest.raises(ValueError, match=r"data: the saved position belongs to inner_steps=2, this stream has 1"):
        make_source().load_state_dict(state)


def test_validation_batches_are_those_that_were_given(make_source: MakeSource) -> None:
    given = {"input_ids": torch.zeros(1, 1), "labels": torch.zeros(1, 1)}
    assert make_source(validation_batches=[given]).validation() == [given]


@pytest.mark.parametrize("name", ["group_size", "max_new_tokens", "inner_steps"])
def test_sizes_below_1_are_refused(make_source: MakeSource, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected at least 1"):
        make_source(**{name: 0})


def test_what_cannot_run_says_why(make_source: MakeSource) -> None:
    with pytest.raises(ValueError, match="rewards: expected at least 1"):
        make_source(rewards={})
    with pytest.raises(ValueError, match="weights: 'x' is no reward"):
        make_source(weights={"x": 1.0})
    with pytest.raises(ValueError, match="needs a policy"):
        next(make_source())
    with pytest.raises(ValueError, match="none for round 0"):
        next(bound(make_source(prompts=lambda _round: []))[0])
    with pytest.raises(ValueError, match="sampler: expected 2 · 3 rows, got 4"):
        next(bound(make_source(group_size=3, sampler=scripted))[0])
