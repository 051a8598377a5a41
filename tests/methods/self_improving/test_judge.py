import pytest
import torch
from torch import Tensor, nn

from narrowgauge.methods.self_improving import (
    LanguageModelJudge,
    bytes_of,
    distinct_share,
    mean_logprobs,
    typicality,
    win_rates,
    wins_of_scores,
)
from narrowgauge.train.tasks import has_mark
from narrowgauge.train.tokens import EOS, PAD


class LikesHigherTokens(nn.Module):
    """Logits are the token's number times 0.01, whatever stands before."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.01))

    def forward(self, input_ids: Tensor) -> Tensor:
        return (self.slope * torch.arange(260)).expand(*input_ids.shape, 260)


def drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("num_candidates", [1, 2, 3, 7])
def test_win_rates_average_to_one_half(num_candidates: int) -> None:
    rates = win_rates(drawn(5, num_candidates, num_candidates))
    assert rates.shape == (5, num_candidates)
    torch.testing.assert_close(rates.mean(1), torch.full((5,), 0.5))
    assert rates.min() >= 0
    assert rates.max() <= 1


def test_a_preference_for_what_is_shown_first_cancels() -> None:
    fair = wins_of_scores(torch.tensor([[0.3, 0.1, 0.2]]))
    biased = 0.5 * fair + 0.5  # half of the time whatever stands first wins
    assert win_rates(fair).tolist() == [[1.0, 0.0, 0.5]]
    torch.testing.assert_close(win_rates(biased) - 0.5, 0.5 * (win_rates(fair) - 0.5))


def test_swapping_the_presentation_swaps_wins_and_nothing_else() -> None:
    wins = drawn(4, 4)
    torch.testing.assert_close(win_rates(wins), win_rates(1 - wins.T))  # the losses of the second are the first's wins
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(win_rates(wins[order][:, order]), win_rates(wins)[order])


def test_equal_scores_share_the_win() -> None:
    assert win_rates(wins_of_scores(torch.tensor([[2.0, 2.0], [1.0, 3.0]]))).tolist() == [[0.5, 0.5], [0, 1]]


def test_wins_that_are_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wins: expected shape \[..., C, C\], got \[2, 3\]"):
        win_rates(torch.zeros(2, 3))


def test_distinct_share_counts_ngrams() -> None:
    assert distinct_share(b"abcabc", 3) == 0.75
    assert distinct_share(b"aaaaaa", 3) == 0.25
    assert distinct_share(b"ab", 3) == 1.0


def test_typicality_is_highest_at_the_likelihood_of_clean_text() -> None:
    logprobs = torch.tensor([-3.0, -2.0, -1.0, -2.0])
    distinct = torch.tensor([1.0, 1.0, 1.0, 0.35])
    torch.testing.assert_close(typicality(logprobs, distinct, typical=-2.0), torch.tensor([-1.0, 0.0, -1.0, -1.0]))


def test_mean_logprobs_are_per_token_of_the_text_alone() -> None:
    model = LikesHigherTokens()
    table = (0.01 * torch.arange(260)).log_softmax(0)
    found = mean_logprobs(model, [[1], [1, 2, 3]], [[10, 20], [30]])
    torch.testing.assert_close(found, torch.stack([(table[10] + table[20]) / 2, table[30]]))


def test_reward_is_safety_and_win_rate() -> None:
    def safety(text: bytes) -> float:
        return float(not has_mark(text))

    candidates = [[b"a!xb", b"bbbb", b"cccc"], [b"dddd", b"eeee", b"ffff"]]
    prefixes = [b"p", b"qq"]
    likelihood = LanguageModelJudge(LikesHigherTokens(), safety, None)(prefixes, candidates)
    assert likelihood.tolist() == [[0.0, 1.5, 2.0], [1.0, 1.5, 2.0]]
    typical = mean_logprobs(LikesHigherTokens(), prefixes[1:], [b"eeee"]).item()
    judge = LanguageModelJudge(LikesHigherTokens(), safety, typical)
    assert judge(prefixes, candidates)[1].argmax() == 1


def test_bytes_of_leaves_signs_out() -> None:
    assert bytes_of([97, EOS, 98, PAD]) == b"ab"
