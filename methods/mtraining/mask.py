"""From columns and diagonals to what is computed: tiles for diagonals, single columns beside them.

A kernel multiplies whole tiles. A diagonal at distance ``o`` crosses, in tiles of ``b × b``, those at tile distance
``o // b``, and ``o // b + 1`` where ``b`` does not divide ``o``; they are computed whole. Columns stay one token wide,
and are computed only where no tile covers them. What is computed and not in the future is read.
"""

import torch
from torch import Tensor

from narrowgauge.methods.mtraining.index import SparseIndex


def crossed_tiles(diagonals_BHN: Tensor, block: int) -> Tensor:
    """By distance between query tile and key tile, whether a kept diagonal crosses it: bool [B, H, ⌈N / block⌉]."""
    if block < 1:
        raise ValueError(f"block: expected at least 1, got {block}")
    size = diagonals_BHN.shape[-1]
    tiles = -(-size // block)
    padded = torch.nn.functional.pad(diagonals_BHN, (0, tiles * block - size)).unflatten(-1, (tiles, block))
    crossed = padded.any(dim=-1)
    crossed[..., 1:] |= padded[..., :-1, 1:].any(dim=-1)
    return crossed


def read_entries(index: SparseIndex, q_T: Tensor, k_S: Tensor, block: int) -> Tensor:
    """Whether the query at position ``q_T[t]`` reads the key at ``k_S[s]``: bool [B, H, T, S]."""
    crossed = crossed_tiles(index.diagonals, block)
    tile_distance = (q_T[:, None] // block - k_S // block).clamp(min=0)
    covered = crossed[..., tile_distance] | index.columns[..., k_S][..., None, :]
    return covered & (q_T[:, None] >= k_S)


def tile_work(index: SparseIndex, block: int) -> Tensor:
    """Entries that are computed in each tile, int64 [B, H, N / block, N / block] by (query tile, key tile).

    A crossed tile counts whole; another one its kept columns, each with the tile's rows; tiles in the future nothing.
    Raises ``ValueError`` where ``block`` does not divide N.
    """
    size = index.columns.shape[-1]
    if size % block:
        raise ValueError(f"block: expected a divisor of the {size} positions, got {block}")
    number = torch.arange(size // block, device=index.columns.device)
    distance = number[:, None] - number
    crossed = crossed_tiles(index.diagonals, block)[..., distance.clamp(min=0)]
    in_tile = index.columns.unflatten(-1, (-1, block)).sum(dim=-1)[..., None, :]
    return torch.where(crossed, block * block, in_tile * block) * (distance >= 0)
