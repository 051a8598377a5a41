import pytest
import torch
from torch import Tensor

from narrowgauge.methods.mtraining.controls import (
    FixedAttention,
    Listening,
    causal_weights,
    random_entries,
    sparse_entries,
    window_entries,
)
from narrowgauge.methods.mtraining.index import Selection
from narrowgauge.train.blocks import causal_attention

SIZE = 64
READABLE = SIZE * (SIZE + 1) / 2


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.9, 1.0])
def test_masks_have_the_density_that_is_asked_for(density: float) -> None:
    window = window_entries(SIZE, density)
    drawn = random_entries((16,), SIZE, density, torch.Generator().manual_seed(0))
    for entries in (window, drawn):
        assert not entries.triu(1).any()
        assert entries.diagonal(dim1=-2, dim2=-1).all()
    assert window.sum() / READABLE == pytest.approx(density, abs=0.02)
    assert drawn.sum() / 16 / READABLE == pytest.approx(density, abs=0.01)


def test_attention_over_all_entries_is_dense_attention() -> None:
    q, k, v = gaussian(2, 4, 24, 8), gaussian(2, 2, 24, 8, seed=1), gaussian(2, 2, 24, 8, seed=2)
    expected, listening = causal_attention(q, k, v), Listening()
    torch.testing.assert_close(FixedAttention(torch.ones(24, 24).tril().bool())(q, k, v), expected)
    torch.testing.assert_close(listening(q, k, v), expected)
    torch.testing.assert_close(causal_weights(listening.q, listening.k) @ v.repeat_interleave(2, dim=1), expected)


def test_sparse_entries_of_full_mass_are_all() -> None:
    q, k = gaussian(2, 4, 24, 8), gaussian(2, 2, 24, 8, seed=1)
    assert torch.equal(sparse_entries(q, k, Selection(mass=1.0), 4), torch.ones(2, 4, 24, 24).tril().bool())
