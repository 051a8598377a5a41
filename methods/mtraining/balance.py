"""Which process holds which positions, and how evenly the work of a sparse index is spread over them.

The sequence is cut into tiles of ``block`` positions. With W processes, tile ``t`` of n goes to::

    contiguous   t // (n / W)
    zigzag       chunk c = t // (n / 2W) goes to c, or to 2W - 1 - c in the second half: balanced for dense causal work
    striped      t mod W: a diagonal then crosses the same number of tiles on every process at every step of the ring

At step ``s`` of a ring, process ``r`` has its queries and the keys of process ``r - s``. Each step takes as long as the
process with most work, so what counts is::

    imbalance in all   max_r Σ_s work[r, s] / mean_r Σ_s work[r, s]
    step by step       Σ_s max_r work[r, s] / Σ_s mean_r work[r, s]
"""

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor


class Layout(StrEnum):
    """Who holds which tile."""

    CONTIGUOUS = "contiguous"
    ZIGZAG = "zigzag"
    STRIPED = "striped"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"layout: expected one of {', '.join(cls)}, got {value!r}")


def tile_owners(tiles: int, world: int, layout: str = Layout.STRIPED) -> Tensor:
    """The process of each tile, int64 [tiles]. ``ValueError`` where the tiles cannot be shared evenly."""
    layout = Layout(layout)
    parts = 2 * world if layout is Layout.ZIGZAG else world
    if world < 1 or tiles < 1 or tiles % parts:
        raise ValueError(f"tiles: expected a multiple of {parts} for {world} processes, {layout}; got {tiles}")
    tile = torch.arange(tiles)
    if layout is Layout.STRIPED:
        return tile % world
    chunk = tile // (tiles // parts)
    return chunk if layout is Layout.CONTIGUOUS else torch.minimum(chunk, parts - 1 - chunk)


def shard_positions(size: int, world: int, block: int, layout: str = Layout.STRIPED) -> Tensor:
    """The positions that each process holds, rising: int64 [world, size / world].

    Raises ``ValueError`` where ``size`` is not made of whole tiles that can be shared evenly.
    """
    if block < 1 or size % block:
        raise ValueError(f"block: expected a divisor of the {size} positions, got {block}")
    owners = tile_owners(size // block, world, layout).repeat_interleave(block)
    return owners.argsort(stable=True).reshape(world, -1)


def shard(x: Tensor, positions_Wn: Tensor, dim: int = -1) -> list[Tensor]:
    """The part of each process along ``dim``."""
    return [x.index_select(dim, positions.to(x.device)) for positions in positions_Wn]


def unshard(parts: Sequence[Tensor], positions_Wn: Tensor, dim: int = -1) -> Tensor:
    """The whole of all parts: the inverse of :func:`shard`."""
    joined = torch.cat(list(parts), dim=dim)
    return joined.index_select(dim, positions_Wn.flatten().argsort().to(joined.device))


def ring_work(work_tt: Tensor, owners_t: Tensor, world: int) -> Tensor:
    """Work of each process at each step, float64 [world, world] by (process, step), of that of tiles ``[..., n, n]``.

    ``work_tt``: by (query tile, key tile), as :func:`~narrowgauge.methods.mtraining.mask.tile_work` gives it; leading
    axes (batch, heads) are added up, since a process has all of them.
    """
    member = torch.nn.functional.one_hot(owners_t, world).double()
    pairs = member.T @ work_tt.double().flatten(0, -3).sum(dim=0) @ member
    rank, step = torch.arange(world)[:, None], torch.arange(world)
    return pairs[rank, (rank - step) % world]


def imbalance(work_WS: Tensor) -> float:
    """Of the work in all; 1 is perfect, ``world`` the worst."""
    total = work_WS.sum(dim=1)
    return float(total.max() / total.mean())


def step_imbalance(work_WS: Tensor) -> float:
    """Of the work step by step, where nobody goes on before all are done."""
    return float(work_WS.amax(dim=0).sum() / work_WS.mean(dim=0).sum())
