"""Both moments of a block on a CPU: read into working memory, written back, the first relative to the second if so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from narrowgauge.kernels._blocks_torch import Block
from narrowgauge.kernels._moments_torch import decode_block, encode_block
from narrowgauge.kernels._scratch_torch import Scratch, Stretch
from narrowgauge.kernels.moments import MomentCodec
from narrowgauge.kernels.step_rules import Row


class BlockMoments:
    """Reads and writes the moments of blocks. rows: of the tensors that the blocks' pieces are of."""

    def __init__(
        self, first: MomentCodec | None, second: MomentCodec | None, rows: Sequence[Row], scratch: Scratch
    ) -> None:
        self.first, self.second = first, second
        self.rows = rows
        self.scratch = scratch
        self.whitened = first is not None and first.whitened

    def read(self, block: Block) -> tuple[Tensor, Tensor]:
        """m and v in float32: what is stored so itself, else in the scratch's m and v; empty where there is none.
        Overwrites the scratch's a, b, u and half."""
        views, scratch, count = block.views, self.scratch, block.size
        m = v = scratch.m[:0]
        root = scratch.b[:count] if self.whitened else None
        if self.second is not None and views.v is not None:
            v = _wide(views.v, scratch.v, count)
            if v is not views.v or root is not None:
                stretches = self._stretches(self.second, block, "read_second_key", self.second.rounding == "dither")
                decode_block(self.second, views.v, views.v_scale, v, scratch, stretches, root)
        if self.first is not None and views.m is not None:
            m = _wide(views.m, scratch.m, count)
            if m is not views.m:
                stretches = self._stretches(self.first, block, "read_first_key", self.first.rounding == "dither")
                decode_block(self.first, views.m, views.m_scale, m, scratch, stretches)
            if root is not None:
                m.mul_(root)
        return m, v

    def pad(self, block: Block, m: Tensor, v: Tensor) -> None:
        """Gives the padding of a block the values that no statistic sees."""
        if block.padding is None:
            return
        places, source = block.padding
        if self.second is not None:
            v[places] = v[source]
        if self.first is not None:
            m[places] = 0.0 if self.whitened else m[source]

    def write(self, block: Block, m: Tensor, v: Tensor) -> None:
        """Stores what `read` gave, and was changed; m and v are scratch afterwards. Overwrites all of the scratch but
        p."""
        views, scratch, count = block.views, self.scratch, block.size
        inverse = scratch.b[:count] if self.whitened else None
        if self.second is not None and views.v is not None and (v is not views.v or inverse is not None):
            stretches = self._stretches(self.second, block, "second_key", self.second.draws)
            encode_block(self.second, views.v, views.v_scale, v, scratch, stretches, inverse)
        if self.first is not None and views.m is not None:
            if inverse is not None:
                m.mul_(inverse)
            if m is not views.m:
                stretches = self._stretches(self.first, block, "first_key", self.first.draws)
                encode_block(self.first, views.m, views.m_scale, m, scratch, stretches)

    def _stretches(self, codec: MomentCodec, block: Block, key: str, draws: bool) -> list[Stretch]:
        return block.stretches(self.rows, key) if draws else []


def _wide(stored: Tensor, memory: Tensor, count: int) -> Tensor:
    return stored if stored.dtype is torch.float32 else memory[:count]
