import numpy as np
import pytest
import torch

from narrowgauge.train.rl.advantages import generalized_advantages, group_advantages, whiten

REWARDS = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))


def test_group_advantages_are_the_formula() -> None:
    rewards = REWARDS.double().numpy()
    centred = rewards - rewards.mean(1, keepdims=True)
    expected = centred / (rewards.std(1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(group_advantages(REWARDS).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(group_advantages(REWARDS, scale_by_std=False).numpy(), centred, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_group_advantages_sum_to_0(scale_by_std: bool) -> None:
    sums = group_advantages(REWARDS, scale_by_std=scale_by_std).sum(1)
    torch.testing.assert_close(sums, torch.zeros(5), rtol=0, atol=1e-5)


def test_group_advantages_do_not_change_with_the_scale_and_origin_of_rewards() -> None:
    ours = group_advantages(REWARDS, eps=0.0)
    torch.testing.assert_close(group_advantages(REWARDS * 7 - 3, eps=0.0), ours, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(group_advantages(REWARDS * 7 - 3), ours, rtol=1e-2, atol=1e-3)
    assert not torch.allclose(group_advantages(-REWARDS, eps=0.0), ours)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
@pytest.mark.parametrize("size", [1, 3, 6, 7])
def test_equal_rewards_give_exactly_0(eps: float, size: int) -> None:
    # A mean of seven numbers 0.1 is not 0.1.
    assert group_advantages(torch.full((2, size), 0.1), eps=eps).abs().max() == 0


def test_rewards_that_are_no_groups_of_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="rewards: expected finite"):
        group_advantages(torch.zeros(4))
    with pytest.raises(ValueError, match="rewards: expected finite"):
        group_advantages(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(ValueError, match="eps: expected"):
        group_advantages(REWARDS, eps=-1.0)


def test_generalized_advantages_are_discounted_sums_of_errors() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 7)), rng.normal(size=(2, 7))
    gamma, lam, spans = 0.9, 0.8, ((2, 6), (0, 7))
    expected = np.zeros((2, 7))
    mask = np.zeros((2, 7), dtype=bool)
    for row, (first, last) in enumerate(spans):
        mask[row, first:last] = True
        following = np.append(values[row, first + 1 : last], 0.0)
        errors = rewards[row, first:last] + gamma * following - values[row, first:last]
        for t in range(last - first):
            expected[row, first + t] = sum((gamma * lam) ** k * error for k, error in enumerate(errors[t:]))
    advantages, returns = generalized_advantages(
        torch.from_numpy(rewards), torch.from_numpy(values), torch.from_numpy(mask), gamma=gamma, lam=lam
    )
    np.testing.assert_allclose(advantages.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(returns.numpy(), np.where(mask, expected + values, 0), rtol=1e-5, atol=1e-6)


def test_with_lambda_1_and_no_discount_the_return_is_what_is_still_to_come() -> None:
    rewards = torch.tensor([[9.0, 1.0, 2.0, 4.0, 9.0]])
    mask = torch.tensor([[False, True, True, True, False]])
    values = torch.tensor([[5.0, 0.3, -2.0, 8.0, 5.0]])
    advantages, returns = generalized_advantages(rewards, values, mask, lam=1.0)
    torch.testing.assert_close(returns, torch.tensor([[0.0, 7.0, 6.0, 4.0, 0.0]]))
    assert advantages[0, [0, 4]].tolist() == [0.0, 0.0]


def test_generalized_advantages_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        generalized_advantages(torch.zeros(1, 2), torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool))


def test_whitened_advantages_have_mean_0_and_deviation_1_inside_the_mask() -> None:
    mask = REWARDS > 0.3
    white = whiten(REWARDS * 5 + 2, mask)
    assert white[mask].mean().item() == pytest.approx(0, abs=1e-6)
    assert white[mask].std(correction=0).item() == pytest.approx(1, rel=1e-5)
    assert white[~mask].abs().max() == 0
    assert whiten(REWARDS, torch.zeros_like(mask)).abs().max() == 0
