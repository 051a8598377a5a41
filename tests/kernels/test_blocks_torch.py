"""How tensors are cut and gathered: every element once, in whole groups, written back where it came from."""

from __future__ import annotations

import torch

from narrowgauge.kernels._blocks_torch import Block, Lists, blocks
from narrowgauge.kernels._scratch_torch import Scratch
from narrowgauge.kernels.codecs import first_moment, second_moment
from narrowgauge.kernels.moments import empty_moment
from narrowgauge.kernels.step_rules import Row

CHUNK, LEAST = 1024, 512
FIRST, SECOND = first_moment("log4"), second_moment("log8")


def lists(counts: list[int], dtype: torch.dtype = torch.float32) -> Lists:
    p = [torch.arange(count).to(dtype) for count in counts]
    m, v = ([empty_moment(codec, t) for t in p] for codec in (FIRST, SECOND))
    scales = ([scale for _, scale in part if scale is not None] for part in (m, v))
    m_scale, v_scale = scales
    return Lists(p, [t.clone() for t in p], [t for t, _ in m], m_scale, [t for t, _ in v], v_scale, [])


def row(offset: int = 0, lr: float = 1e-3) -> Row:
    return Row(1, lr, 0, 0.9, 0.99, 1e-8, 0.1, 0.01, offset=offset)


def visit(tensors: Lists, rows: list[Row]) -> list[Block]:
    """Adds 1 to every p, and returns the blocks."""
    counts = [p.numel() for p in tensors.p]
    seen = []
    for block in blocks(counts, tensors, rows, (FIRST, SECOND), CHUNK, LEAST, Scratch(CHUNK)):
        block.views.p.add_(1)
        seen.append(block)
    return seen


def test_every_element_is_stepped_once() -> None:
    counts = [0, 1, 127, 128, 600, 1024, 1500, 5000, 3]
    tensors = lists(counts)
    seen = visit(tensors, [row() for _ in counts])
    for count, p in zip(counts, tensors.p, strict=True):
        assert torch.equal(p, torch.arange(count) + 1.0)
    assert all(block.size % 128 == 0 and block.size <= CHUNK for block in seen)
    pieces = sorted(piece for block in seen for piece in block.pieces)
    covered = {index: sum(count for i, _, count in pieces if i == index) for index in range(len(counts))}
    assert list(covered.values()) == counts


def test_gradients_are_not_written_back() -> None:
    tensors = lists([100])
    counts = [100]
    for block in blocks(counts, tensors, [row()], (FIRST, SECOND), CHUNK, LEAST, Scratch(CHUNK)):
        block.views.g.zero_()
    assert torch.equal(tensors.g[0], torch.arange(100.0))


def test_tensors_share_a_block_where_their_numbers_and_dtypes_agree() -> None:
    assert len(visit(lists([10, 20, 30]), [row()] * 3)) == 1
    assert len(visit(lists([10, 20, 30]), [row(), row(lr=1.0), row()])) == 2
    mixed = lists([10, 20])
    mixed.p[1] = mixed.p[1].bfloat16()  # type: ignore[index]
    assert len(visit(mixed, [row()] * 2)) == 2
    assert torch.equal(mixed.p[1].float(), torch.arange(20.0) + 1)


def test_padding_repeats_the_last_element() -> None:
    (block,) = visit(lists([130, 5]), [row()] * 2)
    assert block.padding is not None
    places, source = block.padding
    assert places.tolist() == [*range(130, 256), *range(261, 384)]
    assert source.tolist() == [129] * 126 + [260] * 123
    (whole,) = visit(lists([128]), [row()])
    assert whole.padding is None


def test_blocks_end_where_the_table_of_draws_may() -> None:
    (first, second) = visit(lists([1536]), [row(offset=512)])
    assert [piece for block in (first, second) for piece in block.pieces] == [(0, 0, 512), (0, 512, 1024)]


def test_the_last_byte_of_an_odd_tensor_holds_the_code_of_zero() -> None:
    tensors = lists([5])
    for block in blocks([5], tensors, [row()], (FIRST, SECOND), CHUNK, LEAST, Scratch(CHUNK)):
        assert block.views.m is not None
        block.views.m.fill_(0xFF)
    assert tensors.m[0].tolist() == [0xFF, 0xFF, 0x0F]
