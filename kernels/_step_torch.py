"""optimizer_step on a CPU: block by block through the cache, decode, update, encode, all of it in place.

Working memory is that of one block (a few megabytes) whatever the tensors' sizes; small tensors share a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from narrowgauge.kernels._blocks_torch import Block, Lists, blocks
from narrowgauge.kernels._masters_torch import read_parameter, write_parameter
from narrowgauge.kernels._pair_torch import BlockMoments
from narrowgauge.kernels._rules_torch import UPDATES, Operands
from narrowgauge.kernels._scratch_torch import Scratch
from narrowgauge.kernels.moments import LARGEST_GROUP, MomentCodec
from narrowgauge.kernels.step_rules import Row

CHUNK_ELEMENTS = 1 << 18
"""Elements of one block: what an operation passes over stays in the caches, and takes longer than it does to call it.
"""
LEAST_ELEMENTS = 1 << 15
"""Tensors and ends with fewer elements are gathered: a call for each of a step's operations would cost more."""


def run(
    rule: str, p: Sequence[Tensor], g: Sequence[Tensor], m: Sequence[Tensor], m_scale: Sequence[Tensor],
    v: Sequence[Tensor], v_scale: Sequence[Tensor], residual: Sequence[Tensor], first: MomentCodec | None,
    second: MomentCodec | None, master: str, rows: Tensor, maximize: bool, skip_nonfinite: bool,
) -> None:  # fmt: skip
    """One step of flat, contiguous tensors; empty lists for what there is not. The arguments are those of the op,
    checked."""
    counts = [tensor.numel() for tensor in p]
    scratch = Scratch(min(CHUNK_ELEMENTS, sum(counts) + LARGEST_GROUP * len(counts)))
    numbers = [Row(*row) for row in rows.tolist()]
    step = Step(rule, master, maximize, skip_nonfinite, BlockMoments(first, second, numbers, scratch))
    lists = Lists(p, g, m, m_scale, v, v_scale, residual)
    for block in blocks(counts, lists, numbers, (first, second), CHUNK_ELEMENTS, LEAST_ELEMENTS, scratch):
        step(block)


class Step:
    """The step of one block."""

    def __init__(self, rule: str, master: str, maximize: bool, skip_nonfinite: bool, moments: BlockMoments) -> None:
        self.update = UPDATES[rule]
        self.master = master
        self.sign = -1.0 if maximize else 1.0
        self.skip_nonfinite = skip_nonfinite
        self.moments = moments
        self.scratch = moments.scratch

    def __call__(self, block: Block) -> None:
        views, scratch, count = block.views, self.scratch, block.size
        m, v = self.moments.read(block)
        p = read_parameter(views.p, views.residual, scratch.p[:count], scratch)
        g = self._gradient(views.g, block.row)
        self.update(Operands(p, g, m, v, scratch.a[:count], scratch.b[:count]), block.row)
        self.moments.pad(block, m, v)
        draws = block.stretches(self.moments.rows, "weight_key") if self.master != "none" else []
        write_parameter(p, views.p, views.residual, self.master, scratch, draws)
        self.moments.write(block, m, v)

    def _gradient(self, g: Tensor, row: Row) -> Tensor:
        factor = self.sign * row.grad_scale
        if g.dtype is torch.float32 and factor == 1.0 and not self.skip_nonfinite:
            return g
        wide = self.scratch.g[: g.numel()]
        if g.dtype is torch.float32:
            torch.mul(g, factor, out=wide)
        else:
            wide.copy_(g)
            if factor != 1.0:
                wide.mul_(factor)
        return wide.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0) if self.skip_nonfinite else wide
