import pytest
import torch

from narrowgauge.methods.mtraining.balance import (
    Layout,
    imbalance,
    ring_work,
    shard,
    shard_positions,
    step_imbalance,
    tile_owners,
    unshard,
)
from narrowgauge.methods.mtraining.index import SparseIndex
from narrowgauge.methods.mtraining.mask import tile_work


def test_owners_are_those_of_the_definition() -> None:
    assert tile_owners(8, 2, "contiguous").tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert tile_owners(8, 2, "zigzag").tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert tile_owners(8, 2, "striped").tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("layout", list(Layout))
def test_unshard_is_the_inverse_of_shard(layout: Layout) -> None:
    positions = shard_positions(48, 4, 3, layout)
    assert sorted(positions.flatten().tolist()) == list(range(48))
    assert (positions.diff(dim=1) > 0).all()
    x = torch.randn(2, 48, 5, generator=torch.Generator().manual_seed(0))
    parts = shard(x, positions, dim=1)
    assert [part.shape for part in parts] == [(2, 12, 5)] * 4
    assert torch.equal(unshard(parts, positions, dim=1), x)


def test_work_is_by_process_and_step() -> None:
    work = torch.arange(16).reshape(1, 1, 4, 4)
    found = ring_work(work, tile_owners(4, 2, "striped"), 2)
    own = [0 + 2 + 8 + 10, 5 + 7 + 13 + 15]  # tiles 0 and 2, tiles 1 and 3
    others = [1 + 3 + 9 + 11, 4 + 6 + 12 + 14]
    assert found.tolist() == [[own[0], others[0]], [own[1], others[1]]]


def test_imbalance_by_hand() -> None:
    work = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    assert imbalance(work) == 1.0
    assert step_imbalance(work) == 2.0


def test_dense_causal_work_is_balanced_by_zigzag_in_all() -> None:
    index = SparseIndex(torch.zeros(1, 1, 256, dtype=torch.bool), torch.ones(1, 1, 256, dtype=torch.bool))
    work = tile_work(index, 4)
    by_layout = {layout: imbalance(ring_work(work, tile_owners(64, 4, layout), 4)) for layout in Layout}
    assert by_layout["zigzag"] == pytest.approx(1.0)
    assert by_layout["contiguous"] > 1.5


def test_a_diagonal_is_balanced_by_stripes_at_every_step() -> None:
    diagonals = torch.zeros(1, 1, 256, dtype=torch.bool)
    diagonals[..., 64] = True
    work = tile_work(SparseIndex(torch.zeros_like(diagonals), diagonals), 4)
    striped = ring_work(work, tile_owners(64, 4, "striped"), 4)
    assert step_imbalance(striped) == 1.0
    assert step_imbalance(ring_work(work, tile_owners(64, 4, "zigzag"), 4)) > 1.3


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="tiles: expected a multiple of 8 for 4 processes, zigzag; got 12"):
        tile_owners(12, 4, "zigzag")
    with pytest.raises(ValueError, match="layout: expected one of contiguous, zigzag, striped, got 'round'"):
        tile_owners(12, 4, "round")
    with pytest.raises(ValueError, match="block: expected a divisor of the 48 positions, got 5"):
        shard_positions(48, 4, 5)
