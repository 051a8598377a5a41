import pytest

from narrowgauge.train.ranks import rank_rows


def test_the_shares_of_all_ranks_are_the_whole_batch() -> None:
    rows = list(range(12))
    shares = [rows[rank_rows(12, rank, 4)] for rank in range(4)]
    assert [row for share in shares for row in share] == rows
    assert shares[1] == [3, 4, 5]


def test_one_process_takes_everything() -> None:
    assert rank_rows(5, 0, 1) == slice(0, 5)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((10, 0, 4), "batch_size"),
        ((0, 0, 1), "batch_size"),
        ((4, 2, 2), "rank"),
        ((4, -1, 2), "rank"),
        ((4, 0, 0), "world_size"),
    ],
)
def test_impossible_shares_are_refused(arguments: tuple[int, int, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        rank_rows(*arguments)
