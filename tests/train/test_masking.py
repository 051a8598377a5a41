import pytest
import torch
from torch import Tensor

from narrowgauge.train.masking import mask_tokens
from narrowgauge.train.tokens import BOS, EOS, MASK, PAD


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(rows: int, columns: int) -> Tensor:
    return torch.randint(0, 256, (rows, columns), generator=generator(9))


def test_labels_are_the_tokens_that_were_chosen_and_the_others_stay() -> None:
    ids = text(40, 50)
    batch = mask_tokens(ids, generator())
    chosen = batch["labels"] != -100
    assert torch.equal(batch["labels"][chosen], ids[chosen])
    assert torch.equal(batch["input_ids"][~chosen], ids[~chosen])


@pytest.mark.parametrize("ratio", [0.15, 0.5])
def test_shares_are_those_of_bert(ratio: float) -> None:
    ids = text(200, 500)
    batch = mask_tokens(ids, generator(), ratio=ratio)
    chosen = batch["labels"] != -100
    count = int(chosen.sum())
    assert count / ids.numel() == pytest.approx(ratio, abs=5 * (ratio * (1 - ratio) / ids.numel()) ** 0.5)
    seen = batch["input_ids"][chosen]
    masked, kept = (seen == MASK).float().mean().item(), (seen == ids[chosen]).float().mean().item()
    # A random byte is the old one in one of 256 cases.
    for share, expected in ((masked, 0.8), (kept, 0.1 + 0.1 / 256)):
        assert share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / count) ** 0.5)


def test_signs_are_never_chosen() -> None:
    ids = torch.tensor([[BOS, 1, EOS, PAD, PAD]] * 50)
    labels = mask_tokens(ids, generator(), ratio=1.0)["labels"]
    assert torch.equal(labels, torch.tensor([[-100, 1, -100, -100, -100]] * 50))
    assert (mask_tokens(torch.full((2, 3), PAD), generator())["labels"] == -100).all()


def test_every_row_with_a_byte_has_a_label() -> None:
    labels = mask_tokens(text(500, 3), generator(), ratio=0.01)["labels"]
    assert ((labels != -100).sum(-1) >= 1).all()


def test_a_batch_is_a_function_of_the_generator() -> None:
    first, again, other = (mask_tokens(text(4, 50), generator(seed))["input_ids"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("ratio", [0.0, 1.5])
def test_another_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"ratio: expected a number in \(0, 1\], got"):
        mask_tokens(text(1, 4), generator(), ratio=ratio)
