import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from narrowgauge.methods.self_improving import CandidateSource, SelfImproving
from narrowgauge.nn import convert
from narrowgauge.optim import AdamW
from narrowgauge.train import METHODS, Batch, Llama, LlamaConfig, Trainer, cross_entropy
from narrowgauge.train.tasks import Example
from narrowgauge.train.tokens import VOCAB_SIZE

SMALL = LlamaConfig(
    vocab_size=VOCAB_SIZE, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16
)
EXAMPLES = [Example(b"ab", b"cdef"), Example(b"gh", b"ijkl"), Example(b"mn", b"opqr")]


def low_tokens(prefixes: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """The smaller the tokens the better; something that can be learned in a few steps."""
    return torch.tensor([[-sum(text) / (256 * len(text)) for text in group] for group in candidates])


def no_opinion(prefixes: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    return torch.ones(len(candidates), len(candidates[0]))


def half_and_half(prefixes: Sequence[Sequence[int]], candidates: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """A rollout is the first prefix's best candidate, the original the second's."""
    return torch.tensor([[0.0, 2, 1, 1], [3, 2, 1, 1]])


def source(judge: Any = low_tokens, **settings: Any) -> CandidateSource:
    return CandidateSource(EXAMPLES, judge, **({"rollouts": 3, "batch_size": 2} | settings))


def trainer(method: SelfImproving, data: Any = None, *, seed: int = 0, **settings: Any) -> Trainer:
    return Trainer(
        Llama(SMALL, seed=seed),
        source() if data is None else data,
        lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0),
        methods=[method],
        **settings,
    )


def weights(run: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def transformed(run: Trainer, batch: Batch) -> Batch:
    return run.methods.transform(batch, 0, 0, 0)


def test_it_is_registered() -> None:
    assert METHODS["self_improving"] is SelfImproving


def test_dpo_begins_at_log_2_and_widens_the_margin() -> None:
    run = trainer(SelfImproving(beta=1.0))
    first = run.fit(1)
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert first["margin"] == 0
    assert run.fit(12)["margin"] > 0.5


def test_the_gradient_raises_the_best_over_the_worst() -> None:
    method = SelfImproving(beta=1.0)
    run = trainer(method)
    batch = transformed(run, next(run.data))
    for _ in range(2):  # the same pairs before and after a small step against the gradient
        loss, metrics = method.loss(run.model, batch)
        margin = metrics["margin"]
        run.model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in run.model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.1)
    assert margin > 0


def test_best_and_worst_rows_are_picked() -> None:
    run = trainer(SelfImproving())
    batch = next(run.data)
    rewards = batch["candidate_reward"].view(2, 4)
    picked = transformed(run, batch)
    torch.testing.assert_close(picked["candidate_reward"], torch.cat([rewards.amax(1), rewards.amin(1)]))
    assert picked["valid"].tolist() == [True] * 4
    assert picked["input_ids"].shape[0] == 4
    filtered = transformed(trainer(SelfImproving(objective="rf_nll")), batch)
    torch.testing.assert_close(filtered["candidate_reward"], rewards.amax(1))
    assert "valid" not in filtered


def test_equal_rewards_give_dpo_no_gradient() -> None:
    run = trainer(SelfImproving(), source(no_opinion))
    before = weights(run)
    assert run.fit(2)["grad_norm"] == 0
    torch.testing.assert_close(weights(run), before, rtol=0, atol=0)


def test_with_the_original_alone_rf_nll_is_ordinary_likelihood() -> None:
    method = SelfImproving(objective="rf_nll")
    run = trainer(method, source(rollouts=0))
    batch = transformed(run, next(run.data))
    loss, metrics = method.loss(run.model, batch)
    torch.testing.assert_close(loss, cross_entropy(run.model, batch))
    assert metrics["chosen_rate"] == 0
    assert method.reference is None


def test_chosen_rate_is_the_share_of_rollouts_among_the_best() -> None:
    for objective in ("rf_nll", "dpo"):
        method = SelfImproving(objective=objective)
        metrics = trainer(
            method, source(lambda prefixes, candidates: torch.tensor([[0.0, 2, 1, 1], [3, 2, 1, 1]]))
        ).fit(1)
        assert metrics["chosen_rate"] == 0.5
        assert metrics["best_reward"] == 2.5


@pytest.mark.parametrize("objective", ["rf_nll", "dpo"])
def test_rewards_rise(objective: str) -> None:
    def reward_of_rollouts() -> float:
        judged = source(rollouts=64)
        judged.bind(run.model)
        batch = judged.judged(EXAMPLES)
        return batch["candidate_reward"][batch["is_rollout"]].mean().item()

    run = trainer(SelfImproving(objective=objective), source(rollouts=6, batch_size=3))
    before = reward_of_rollouts()
    run.fit(20)
    assert reward_of_rollouts() > before + 0.03


@pytest.mark.parametrize("objective", ["rf_nll", "dpo"])
def test_a_run_resumes_bit_for_bit(tmp_path: Path, objective: str) -> None:
    whole, half, resumed = (trainer(SelfImproving(objective=objective), seed=seed) for seed in (0, 0, 9))
    whole.fit(5)
    half.fit(3)
    half.save(tmp_path / "at3")
    resumed.resume(tmp_path / "at3")
    resumed.fit(5)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_micro_batches_make_one_step() -> None:
    metrics = trainer(SelfImproving(), source(batch_size=1), grad_accumulation=2).fit(1)
    assert metrics["loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_other_settings_and_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="objective: expected one of rf_nll, dpo, got 'ppo'"):
        SelfImproving(objective="ppo")
    with pytest.raises(TypeError, match="data: SelfImproving expects a CandidateSource, got str"):
        SelfImproving().source("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="objective: the saved run has 'dpo', this one 'rf_nll'"):
        SelfImproving(objective="rf_nll").load_state_dict(SelfImproving().state_dict())


@pytest.mark.parametrize("objective", ["rf_nll", "dpo"])
def test_it_works_under_a_recipe_with_a_compressed_state(objective: str) -> None:
    model = convert(Llama(SMALL, seed=0), "fp8_row")
    method = SelfImproving(objective=objective)
    run = Trainer(model, source(), lambda groups: AdamW(groups, lr=1e-2, state="log8"), methods=[method])
    first = run.fit(1)
    assert objective == "rf_nll" or first["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert math.isfinite(run.fit(3)["loss"])
