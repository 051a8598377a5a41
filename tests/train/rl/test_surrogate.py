import math

import pytest
import torch
from torch import Tensor

from narrowgauge.train.rl.surrogate import clipped_surrogate, k3, masked_mean


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "clipped"),
    [
        (1.0, 2.0, 2.0, False),
        (1.1, 2.0, 2.2, False),
        (1.5, 2.0, 2.4, True),  # no more is to be had from going up
        (0.5, 2.0, 1.0, False),  # the pessimistic branch
        (0.5, -2.0, -1.6, True),
        (1.5, -2.0, -3.0, False),
    ],
)
def test_the_surrogate_is_the_smaller_of_both_branches(
    ratio: float, advantage: float, expected: float, clipped: bool
) -> None:
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    surrogate, got_ratio, got_clipped = clipped_surrogate(
        logprobs, torch.zeros(1, 1), torch.tensor([advantage]), clip=0.2
    )
    assert surrogate.item() == pytest.approx(expected, rel=1e-6)
    assert got_ratio.item() == pytest.approx(ratio, rel=1e-6)
    assert got_clipped.item() is clipped
    (gradient,) = torch.autograd.grad(surrogate, logprobs)
    assert gradient.item() == pytest.approx(0.0 if clipped else expected, rel=1e-6)


def test_the_upper_bound_may_be_further_away() -> None:
    logprobs = torch.tensor([[math.log(1.25)]])
    surrogate, *_ = clipped_surrogate(logprobs, torch.zeros(1, 1), torch.ones(1), clip=0.2, clip_high=0.28)
    assert surrogate.item() == pytest.approx(1.25, rel=1e-6)


@pytest.mark.parametrize(("clip", "clip_high"), [(0.0, None), (1.0, None), (0.2, 0.0)])
def test_bounds_outside_their_range_are_refused(clip: float, clip_high: float | None) -> None:
    with pytest.raises(ValueError, match="clip, clip_high: expected"):
        clipped_surrogate(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1), clip=clip, clip_high=clip_high)


def test_k3_is_0_only_at_equality_and_its_mean_is_the_divergence() -> None:
    policy = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    reference = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    estimates = k3(policy.log(), reference.log())
    assert k3(policy.log(), policy.log()).abs().max() == 0
    assert estimates.min() > 0
    divergence = (policy * (policy / reference).log()).sum()
    assert (policy * estimates).sum().item() == pytest.approx(divergence.item(), rel=1e-12)


def test_k3_pulls_towards_the_reference() -> None:
    logprobs = torch.tensor([-1.0, -3.0], requires_grad=True)
    k3(logprobs, torch.tensor([-2.0, -2.0])).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([1 - math.exp(-1), 1 - math.exp(1)], rel=1e-6)


def test_means_over_rows_and_over_tokens() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, math.nan, math.nan], [7.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    assert masked_mean(values, mask, "sequence").item() == pytest.approx((2 + 10 + 0) / 3)
    assert masked_mean(values, mask, "token").item() == pytest.approx(16 / 4)
    empty: Tensor = masked_mean(values, torch.zeros_like(mask))
    assert empty.item() == 0
    with pytest.raises(ValueError, match="aggregation: expected one of sequence, token"):
        masked_mean(values, mask, "rows")  # type: ignore[arg-type]
