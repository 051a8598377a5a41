import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.train.rl.advantages import group_advantages
from narrowgauge.train.rl.grpo import grpo_loss

MASK = torch.tensor([[False, True, True, True], [True, True, False, False], [False, True, False, False]])


def numbers(seed: int) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) * 0.3 - 1.0


def gradient_of(loss: Tensor, logprobs: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logprobs)[0]


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
def test_the_loss_is_the_formula(aggregation: str) -> None:
    new, old, ref = numbers(0), numbers(1), numbers(2)
    advantages = torch.tensor([1.5, -0.5, -1.0])
    loss, metrics = grpo_loss(
        new, old, advantages, MASK, ref, clip=0.1, clip_high=0.3, kl_coef=0.05, aggregation=aggregation
    )
    ratio = np.exp((new - old).double().numpy())
    weight = advantages.double().numpy()[:, None]
    surrogate = np.minimum(ratio * weight, np.clip(ratio, 0.9, 1.3) * weight)
    difference = (ref - new).double().numpy()
    per_token = -surrogate + 0.05 * (np.exp(difference) - difference - 1)
    mask = MASK.numpy()
    rows = (per_token * mask).sum(1) / mask.sum(1)
    expected = rows.mean() if aggregation == "sequence" else per_token[mask].mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert metrics["ratio"] == pytest.approx(ratio[mask].mean(), rel=1e-5)
    assert metrics["kl"] == pytest.approx((np.exp(difference) - difference - 1)[mask].mean(), rel=1e-5)


def test_at_the_first_inner_step_ratio_is_1_and_divergence_0() -> None:
    new = numbers(0).requires_grad_()
    same = new.detach()
    advantages = torch.tensor([1.0, 0.5, -1.5])
    loss, metrics = grpo_loss(new, same, advantages, MASK, same, kl_coef=0.1)
    assert metrics == {"ratio": 1.0, "clip_fraction": 0.0, "kl": 0.0}
    assert loss.item() == pytest.approx(0.0, abs=1e-6)  # minus the mean of the advantages
    # The gradient is that of REINFORCE: -A over the row's tokens, over the rows.
    expected = -(advantages[:, None] * MASK / MASK.sum(1, keepdim=True)) / 3
    torch.testing.assert_close(gradient_of(loss, new), expected)


def test_equal_rewards_give_no_gradient() -> None:
    new = numbers(0).requires_grad_()
    advantages = group_advantages(torch.full((1, 3), 0.7)).flatten()
    loss, _ = grpo_loss(new, numbers(1), advantages, MASK)
    assert gradient_of(loss, new).abs().max() == 0


def test_only_completions_get_a_gradient() -> None:
    new = numbers(0).requires_grad_()
    loss, _ = grpo_loss(new, numbers(1), torch.ones(3), MASK, numbers(2), clip=0.9, kl_coef=1.0)
    gradient = gradient_of(loss, new)
    assert gradient[~MASK].abs().max() == 0
    assert gradient[MASK].abs().min() > 0


def test_the_gradient_is_that_of_finite_differences() -> None:
    new = numbers(0).double().requires_grad_()
    old, ref, advantages = numbers(1).double(), numbers(2).double(), torch.tensor([1.5, -0.5, -1.0]).double()
    assert torch.autograd.gradcheck(lambda x: grpo_loss(x, old, advantages, MASK, ref, kl_coef=0.3)[0], (new,))


def test_a_penalty_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="kl_coef: expected 0 or more, and ref_logprobs"):
        grpo_loss(numbers(0), numbers(1), torch.ones(3), MASK, kl_coef=0.1)
    with pytest.raises(ValueError, match="kl_coef: expected"):
        grpo_loss(numbers(0), numbers(1), torch.ones(3), MASK, numbers(2), kl_coef=-0.1)
