import pytest
import torch
from torch import Tensor

from narrowgauge.methods.mtraining.index import Selection, SparseIndex, keep_mass, probe_logits, scores, select_index

BARE = {"sinks": 0, "window": 1}


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sharp(size: int = 32) -> tuple[Tensor, Tensor]:
    """q of 4 heads and k of 2, so large that a few keys have most of the mass."""
    return 3 * gaussian(2, 4, size, 8), gaussian(2, 2, size, 8, seed=1)


def dense_weights(q: Tensor, k: Tensor) -> Tensor:
    size = q.shape[2]
    logits = q @ k.repeat_interleave(2, dim=1).transpose(-2, -1) * q.shape[-1] ** -0.5
    return logits.masked_fill(torch.ones(size, size).triu(1).bool(), float("-inf")).softmax(dim=-1)


def mean_scores(q: Tensor, k: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """Written as loops over the last rows."""
    weights = dense_weights(q, k)[:, :, -probes:]
    size = weights.shape[-1]
    columns, diagonals = weights.mean(dim=2), torch.zeros(*weights.shape[:2], size)
    for row in range(probes):
        query = size - probes + row
        for key in range(query + 1):
            diagonals[:, :, query - key] += weights[:, :, row, key] / probes
    return columns, diagonals


def test_scores_are_means_over_the_last_queries() -> None:
    q, k = sharp()
    positions = torch.arange(32)
    logits = probe_logits(q[:, :, -5:], k, positions[-5:, None] >= positions)
    found = scores(logits, logits.logsumexp(dim=-1), positions[-5:], positions, 32)
    for actual, expected in zip(found, mean_scores(q, k, 5), strict=True):
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(actual.sum(dim=-1), torch.ones(2, 4))


@pytest.mark.parametrize("mass", [0.3, 0.8, 0.95])
def test_each_family_keeps_at_least_the_mass_and_nothing_that_is_not_needed(mass: float) -> None:
    q, k = sharp()
    index = select_index(q, k, Selection(mass=mass, probes=8, **BARE))
    for kept, score in zip((index.columns, index.diagonals), mean_scores(q, k, 8), strict=True):
        assert ((score * kept).sum(dim=-1) >= mass - 1e-5).all()
    kept = keep_mass(mean_scores(q, k, 8)[0], mass, None)
    least = mean_scores(q, k, 8)[0].masked_fill(~kept, 2.0).amin(dim=-1)
    assert ((mean_scores(q, k, 8)[0] * kept).sum(dim=-1) - least < mass + 1e-5).all()


def test_the_entry_that_crosses_the_bound_is_in() -> None:
    kept = keep_mass(torch.tensor([[[0.2, 0.5, 0.3]], [[0.0, 0.01, 0.99]]]), 0.6, None)
    assert kept.tolist() == [[[False, True, True]], [[False, False, True]]]


def test_more_mass_only_adds() -> None:
    q, k = sharp()
    before = select_index(q, k, Selection(mass=0.1, probes=8))
    for mass in (0.5, 0.9, 1.0):
        after = select_index(q, k, Selection(mass=mass, probes=8))
        assert (after.columns | ~before.columns).all()
        assert (after.diagonals | ~before.diagonals).all()
        before = after
    assert before.columns.all()
    assert before.diagonals.all()


def test_sinks_and_window_are_always_kept_and_caps_do_not_touch_them() -> None:
    q, k = sharp()
    index = select_index(q, k, Selection(mass=0.9, sinks=3, window=4, max_columns=0, max_diagonals=1))
    assert index.columns.sum(dim=-1).tolist() == [[3] * 4] * 2
    assert index.columns[..., :3].all()
    assert index.diagonals[..., :4].all()
    assert (index.diagonals.sum(dim=-1) <= 5).all()


def test_a_far_diagonal_and_a_heavy_column_are_found() -> None:
    size, distance, column = 32, 11, 6
    q = torch.eye(size)[None, None] * 30
    k = torch.eye(size).roll(distance, dims=1)[None, None]  # key j is what query j + distance asks for
    index = select_index(q, k, Selection(mass=0.6, probes=8, **BARE))
    assert index.diagonals[0, 0].nonzero().flatten().tolist() == [0, distance]
    k = torch.zeros(1, 1, size, size)
    k[0, 0, column] = 1.0
    index = select_index(q.abs().amax() * torch.ones(1, 1, size, size), k, Selection(mass=0.6, probes=8, **BARE))
    assert index.columns[0, 0].nonzero().flatten().tolist() == [column]


def test_it_has_no_gradient_and_few_queries_are_enough() -> None:
    q, k = sharp()
    index = select_index(q.requires_grad_()[:, :, -1:], k, Selection(probes=8))
    assert not index.columns.requires_grad
    assert index.columns.shape == (2, 4, 32)


def test_a_mask_keeps_padding_out() -> None:
    q, k = sharp()
    positions = torch.arange(32)
    reads = (positions[:, None] >= positions) & (positions >= 10)
    mask = (reads | torch.eye(32).bool())[None, None]
    index = select_index(q, k, Selection(mass=0.9, probes=8, **BARE), mask)
    assert not index.columns[..., :10].any()
    assert isinstance(index, SparseIndex)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mass": 0.0}, r"mass: expected a number in \(0, 1\], got 0.0"),
        ({"mass": float("nan")}, "mass: expected"),
        ({"probes": 0}, "probes: expected at least 1, got 0"),
        ({"window": 0}, "window: expected at least 1, got 0"),
        ({"sinks": -1}, "sinks: expected at least 0, got -1"),
        ({"max_columns": -1}, "max_columns: expected at least 0, got -1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(**settings)  # type: ignore[arg-type]
