import math

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.train import Llama, LlamaConfig, cross_entropy
from narrowgauge.train.rl.dpo import dpo_loss, preference_pairs, reward_filtered_nll
from narrowgauge.train.rl.logprobs import sequence_logprobs

TINY = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) - 5


def test_pairs_are_best_and_worst_and_ties_do_not_count() -> None:
    best, worst, valid = preference_pairs(torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]]))
    assert best.tolist() == [1, 0]
    assert worst.tolist() == [3, 0]
    assert valid.tolist() == [True, False]
    with pytest.raises(ValueError, match="rewards: expected"):
        preference_pairs(torch.zeros(3))


def test_where_policy_and_reference_agree_the_loss_is_log_2() -> None:
    chosen, rejected = numbers(0, 4), numbers(1, 4)
    loss, metrics = dpo_loss(chosen, rejected, chosen, rejected, beta=0.7)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    assert metrics["margin"] == 0.0


def test_the_loss_is_the_formula() -> None:
    given = [numbers(seed, 4) for seed in range(4)]
    chosen, rejected, ref_chosen, ref_rejected = (x.double().numpy() for x in given)
    lengths = torch.tensor([3, 4, 5, 0])
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    each = np.log1p(np.exp(-0.4 * margin)) - 0.2 * chosen / np.maximum(lengths.numpy(), 1)
    loss, metrics = dpo_loss(*given, beta=0.4, nll_coef=0.2, chosen_lengths=lengths)
    assert loss.item() == pytest.approx(each.mean(), rel=1e-5)
    assert metrics["margin"] == pytest.approx(margin.mean(), rel=1e-5)
    assert metrics["preference_accuracy"] == (margin > 0).mean()
    valid = torch.tensor([True, False, True, False])
    loss, metrics = dpo_loss(*given, beta=0.4, nll_coef=0.2, chosen_lengths=lengths, valid=valid)
    assert loss.item() == pytest.approx(each[[0, 2]].mean(), rel=1e-5)
    assert metrics["chosen_logprob"] == pytest.approx(chosen[[0, 2]].mean(), rel=1e-5)


def test_the_gradient_raises_the_margin_and_skips_ties() -> None:
    chosen, rejected = numbers(0, 2).requires_grad_(), numbers(1, 2).requires_grad_()
    loss, _ = dpo_loss(chosen, rejected, numbers(2, 2), numbers(3, 2), valid=torch.tensor([True, False]))
    up, down = torch.autograd.grad(loss, (chosen, rejected))
    assert up[0] < 0 < down[0]
    assert up[1] == down[1] == 0


def test_without_a_pair_that_counts_the_loss_is_0_with_a_gradient_of_0() -> None:
    chosen = numbers(0, 2).requires_grad_()
    loss, _ = dpo_loss(chosen, chosen.detach(), chosen.detach(), chosen.detach(), valid=torch.zeros(2).bool())
    loss.backward()
    assert chosen.grad is not None
    assert (loss.item(), chosen.grad.abs().max().item()) == (0.0, 0.0)


def test_a_step_of_a_model_raises_the_margin() -> None:
    model = Llama(TINY, seed=0)
    ids = torch.randint(0, 256, (2, 8), generator=torch.Generator().manual_seed(0))
    labels = ids.roll(-1, 1)
    reference = sequence_logprobs(model, ids, labels).detach()
    for _ in range(2):
        now = sequence_logprobs(model, ids, labels)
        loss, metrics = dpo_loss(now[:1], now[1:], reference[:1], reference[1:], beta=1.0)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.01 * gradient
    assert metrics["margin"] > 0


def test_settings_outside_their_range_are_refused() -> None:
    given = [numbers(seed, 2) for seed in range(4)]
    with pytest.raises(ValueError, match="beta, nll_coef: expected"):
        dpo_loss(*given, beta=0.0)
    with pytest.raises(ValueError, match="chosen_lengths: expected"):
        dpo_loss(*given, nll_coef=1.0)


def test_the_best_candidate_is_learned() -> None:
    logprobs = torch.tensor([[-6.0, -9.0], [-4.0, -8.0]], requires_grad=True)
    loss, metrics = reward_filtered_nll(
        logprobs, torch.tensor([[2, 3], [4, 2]]), torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    )
    assert loss.item() == pytest.approx((9 / 3 + 4 / 4) / 2)
    assert metrics["best_reward"] == pytest.approx(0.75)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -1 / 6], [-1 / 8, 0.0]]))


def test_with_one_candidate_it_is_the_ordinary_loss() -> None:
    model = Llama(TINY, seed=0)
    ids = torch.randint(0, 256, (3, 8), generator=torch.Generator().manual_seed(0))
    labels = ids.roll(-1, 1)
    labels[:, :3] = -100
    logprobs = sequence_logprobs(model, ids, labels).unsqueeze(1)
    loss, _ = reward_filtered_nll(logprobs, torch.full((3, 1), 5), torch.rand(3, 1))
    assert loss.item() == pytest.approx(cross_entropy(model, {"input_ids": ids, "labels": labels}).item(), rel=1e-6)
