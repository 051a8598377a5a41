import pytest
import torch

from narrowgauge.methods.mtraining.index import SparseIndex
from narrowgauge.methods.mtraining.mask import crossed_tiles, read_entries, tile_work


def random_index(size: int, share: float = 0.1, seed: int = 0) -> SparseIndex:
    generator = torch.Generator().manual_seed(seed)
    columns, diagonals = (torch.rand(2, 3, size, generator=generator) < share for _ in range(2))
    diagonals[..., 0] = True
    return SparseIndex(columns, diagonals)


def slow_entries(index: SparseIndex, size: int, block: int) -> torch.Tensor:
    """Tile by tile, from the definition."""
    read = torch.zeros(2, 3, size, size, dtype=torch.bool)
    for b in range(2):
        for h in range(3):
            tiles = {
                (i // block, (i - o) // block)
                for o in index.diagonals[b, h].nonzero().flatten().tolist()
                for i in range(o, size)
            }
            for i in range(size):
                for j in range(i + 1):
                    read[b, h, i, j] = (i // block, j // block) in tiles or index.columns[b, h, j]
    return read


@pytest.mark.parametrize("block", [1, 4, 5, 16])
def test_entries_are_those_of_the_definition(block: int) -> None:
    index, positions = random_index(16), torch.arange(16)
    found = read_entries(index, positions, positions, block)
    # A tile distance that is crossed anywhere counts as crossed everywhere: at the border, where the sequence does
    # not fill its tiles, that can be more than the definition asks for.
    assert (found | ~slow_entries(index, 16, block)).all()
    if 16 % block == 0:
        assert torch.equal(found, slow_entries(index, 16, block))


def test_it_is_causal_and_has_the_main_diagonal() -> None:
    index, positions = random_index(20), torch.arange(20)
    found = read_entries(index, positions, positions, 4)
    assert not found.triu(1).any()
    assert found.diagonal(dim1=-2, dim2=-1).all()


def test_parts_are_parts_of_the_whole() -> None:
    index, positions = random_index(20), torch.arange(20)
    whole = read_entries(index, positions, positions, 4)
    q, k = torch.tensor([3, 4, 11, 19]), torch.tensor([0, 5, 6, 18])
    assert torch.equal(read_entries(index, q, k, 4), whole[:, :, q][..., k])


def test_a_diagonal_crosses_two_tile_distances_or_one() -> None:
    diagonals = torch.zeros(1, 1, 16, dtype=torch.bool)
    diagonals[..., 4] = True
    assert crossed_tiles(diagonals, 4)[0, 0].tolist() == [False, True, False, False]
    diagonals[..., 4], diagonals[..., 6] = False, True
    assert crossed_tiles(diagonals, 4)[0, 0].tolist() == [False, True, True, False]


def test_work_counts_tiles_whole_and_columns_beside_them_by_token() -> None:
    index = random_index(16)
    work = tile_work(index, 4)
    positions = torch.arange(16)
    read = read_entries(index, positions, positions, 4)
    for query in range(4):
        for key in range(query):  # off the main diagonal nothing of a tile is in the future
            tile = read[:, :, 4 * query : 4 * query + 4, 4 * key : 4 * key + 4]
            assert torch.equal(work[:, :, query, key], tile.sum(dim=(-1, -2)))
        assert (work[:, :, query, query] == 16).all()
    assert not work.triu(1).any()


def test_impossible_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="block: expected at least 1, got 0"):
        crossed_tiles(torch.zeros(1, 1, 4, dtype=torch.bool), 0)
    with pytest.raises(ValueError, match="block: expected a divisor of the 16 positions, got 5"):
        tile_work(random_index(16), 5)
