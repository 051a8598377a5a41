"""Which rows of a global batch a process of a distributed run takes."""


def rank_rows(batch_size: int, rank: int, world_size: int) -> slice:
    """Rows ``rank · n … (rank + 1) · n - 1`` of a global batch, with ``n = batch_size / world_size``.

    The shares of all ranks, one after the other, are the batch of a run in one process. Raises ``ValueError``
    when the batch cannot be divided evenly or there is no such rank.
    """
    if world_size < 1:
        raise ValueError(f"world_size: expected at least 1, got {world_size}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 … {world_size - 1}, got {rank}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    if batch_size % world_size:
        raise ValueError(f"batch_size: expected a multiple of world_size={world_size}, got {batch_size}")
    share = batch_size // world_size
    return slice(rank * share, (rank + 1) * share)
