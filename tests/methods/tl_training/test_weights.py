import pytest
import torch

from narrowgauge.methods.tl_training import IGNORED, OTHER, PARA, PRE, key_weight, loss_weights, weighted_cross_entropy


def row(*kinds: int) -> torch.Tensor:
    return torch.tensor([kinds])


@pytest.mark.parametrize(
    ("num_pre", "num_other", "expected"),
    [(2, 8, 4.0), (2, 40, 9.0), (4, 4, 1.0), (8, 2, 1.0), (0, 5, 1.0), (1, 0, 1.0)],
)
def test_the_weight_of_key_tokens(num_pre: int, num_other: int, expected: float) -> None:
    assert key_weight(torch.tensor([num_pre]), torch.tensor([num_other]), 9.0).item() == expected


def test_it_stays_between_1_and_the_cap() -> None:
    counts = torch.arange(0, 60)
    weights = key_weight(counts[:, None], counts[None], 9.0)
    assert weights.min() == 1
    assert weights.max() == 9


def test_weights_of_one_reply_give_the_papers_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 12, 7, generator=generator)
    labels = torch.randint(7, (1, 12), generator=generator)
    kinds = row(IGNORED, IGNORED, PRE, OTHER, OTHER, PRE, OTHER, OTHER, PARA, OTHER, OTHER, OTHER)
    labels[kinds == IGNORED] = -100
    losses = -logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    w = 7 / 2
    pre, para, other = (losses[kinds == kind].sum() for kind in (PRE, PARA, OTHER))
    expected = (w * pre + para + other) / (w * 2 + 1 + 7)
    found = weighted_cross_entropy(logits, labels, loss_weights(kinds, 9.0))
    torch.testing.assert_close(found, expected)


def test_a_row_sums_to_its_number_of_tokens() -> None:
    kinds = torch.tensor([[PRE, OTHER, OTHER, OTHER, PARA, IGNORED], [OTHER, OTHER, IGNORED, IGNORED, PRE, PARA]])
    weights = loss_weights(kinds, 9.0)
    torch.testing.assert_close(weights.sum(1), torch.tensor([5.0, 4.0]))
    assert torch.equal(weights == 0, kinds == IGNORED)
    assert (weights[0, 0] / weights[0, 1]).item() == pytest.approx(3.0)


def test_one_class_alone_is_the_mean_over_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 5, 7, generator=generator), torch.randint(7, (2, 5), generator=generator)
    mean = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    for kind in (OTHER, PRE, PARA):
        weights = loss_weights(torch.full((2, 5), kind), 9.0)
        assert torch.equal(weights, torch.ones(2, 5))
        torch.testing.assert_close(weighted_cross_entropy(logits, labels, weights), mean)


def test_key_positions_get_the_share_of_the_gradient_that_they_weigh() -> None:
    kinds = row(PRE, OTHER, OTHER, OTHER, OTHER, OTHER, OTHER, PRE, PARA)
    labels = torch.zeros(1, 9, dtype=torch.int64)
    shares = []
    for weights in (loss_weights(kinds, 9.0), loss_weights(kinds, 1.0)):
        logits = torch.zeros(1, 9, 4, requires_grad=True)
        weighted_cross_entropy(logits, labels, weights).backward()
        assert logits.grad is not None
        size = logits.grad.abs().sum(-1)
        shares.append((size[kinds == PRE].sum() / size.sum()).item())
    assert shares == pytest.approx([2 * 3 / (2 * 3 + 7), 2 / 9])
