import pytest
import torch

from narrowgauge.methods.tl_training import Sample, call_reward, reward_of
from narrowgauge.train import Llama, LlamaConfig, Trainer
from narrowgauge.train.generate import sample
from narrowgauge.train.rl import PPO, Completion, RolloutSource
from narrowgauge.train.tasks.tool_calls import TURN_END
from narrowgauge.train.tokens import VOCAB_SIZE, encode

REGISTRY = {"find": ("text", "limit", "order"), "count": ("text",)}
GOLD = "find(text='a', limit=3)"
LADDER = [
    ("find text", -2.0),
    ("found(text='a', limit=3)", -2.0),
    ("find(word='a', order=1, limit=3)", -1.8),  # hallucinated, redundant, missing
    ("count(text='a')", -1.5),
    ("find(text='a', limit=3, word=1, order=2)", -1.3),
    ("find(word='a', limit=3)", -1.3),
    ("find(text='a', order=2)", -1.0),
    ("find(text='a', limit=3, word=1)", -0.8),
    ("find(text='a', limit=3, order=2)", -0.5),
    ("find(text='a')", -0.5),
    ("find()", -0.5),
    ("find(text='b', limit=3)", -0.25),
    ("find(limit=3, text='a')", 1.0),
    ('find(text="a", limit=3)\n', 1.0),
]


@pytest.mark.parametrize(("text", "expected"), LADDER)
def test_every_rung_is_reached(text: str, expected: float) -> None:
    assert call_reward(text, GOLD, REGISTRY) == expected


def test_the_ladder_only_goes_up() -> None:
    rewards = [call_reward(text, GOLD, REGISTRY) for text, _ in LADDER]
    assert rewards == sorted(rewards)
    assert len(set(rewards)) == 9


def test_everything_wrong_about_the_parameters_is_worse_than_another_tool() -> None:
    assert call_reward(LADDER[2][0], GOLD, REGISTRY) < call_reward("count(text='a')", GOLD, REGISTRY)


def test_a_call_without_parameters_can_be_right() -> None:
    assert call_reward("stop()", "stop()", {"stop": ()}) == 1.0
    assert call_reward("stop(a=1)", "stop()", {"stop": ()}) == -0.8


@pytest.mark.parametrize("gold", ["nonsense", "other(a=1)"])
def test_a_wrong_gold_call_is_refused(gold: str) -> None:
    with pytest.raises(ValueError, match="gold: expected a call of one of find, count"):
        call_reward("find()", gold, REGISTRY)


def test_the_best_of_several_by_reward_is_the_right_one() -> None:
    texts = [text for text, _ in LADDER]
    assert max(texts, key=lambda text: call_reward(text, GOLD, REGISTRY)) == "find(limit=3, text='a')"


def test_it_is_a_reward_for_ppo() -> None:
    item = Sample(b"U:find a\nA:", b"count(text='a')\n")
    reward = reward_of(REGISTRY)
    assert reward(item, Completion.from_ids(encode("count(text='a')\n"))) == 1.0
    assert reward(item, Completion.from_ids([300, 7])) == -2.0

    def until_line_end(policy, prompts, group_size, generator):  # type: ignore[no-untyped-def]
        return sample(
            policy, prompts, num_samples=group_size, max_new_tokens=4, eos=TURN_END, generator=generator, padding=0
        )

    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 32, "max_seq_len": 32}
    model = Llama(LlamaConfig(vocab_size=VOCAB_SIZE, **sizes), seed=0)
    data = RolloutSource(lambda _: [item], {"call": reward}, group_size=2, max_new_tokens=4, sampler=until_line_end)
    trainer = Trainer(model, data, lambda groups: torch.optim.AdamW(groups, lr=1e-3), methods=[PPO(kl_coef=0.3)])
    assert trainer.fit(2)["reward"] <= -0.25
