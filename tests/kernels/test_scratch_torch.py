"""Working memory of the step: draws of blocks that are put together from pieces."""

from __future__ import annotations

import numpy as np
import torch

from narrowgauge.kernels._scratch_torch import CENTRE, UNIT, Scratch, Stretch
from narrowgauge.kernels.random_words import TABLE_ELEMENTS, halves, uniform


def test_pieces_draw_under_their_own_keys_and_places() -> None:
    scratch = Scratch(600)
    stretches = [Stretch(0, 201, 4, 7), Stretch(256, 300, TABLE_ELEMENTS - 100, 2**32 - 1)]
    u = scratch.draw(stretches, 600).double() * UNIT + CENTRE
    for place, count, offset, key in stretches:
        np.testing.assert_array_equal(u[place : place + count].numpy(), uniform(count, key, offset))
    bits = scratch.draw_bits(stretches, 600)
    np.testing.assert_array_equal(bits[:201].numpy() + 2**15, halves(201, 7, 4))


def test_memory_is_one_allocation_without_overlaps() -> None:
    scratch = Scratch(101)
    buffers = [scratch.a, scratch.b, scratch.p, scratch.g, scratch.m, scratch.v, scratch.u]
    for value, buffer in enumerate(buffers):
        buffer.fill_(value)
    scratch.half.zero_()
    assert [float(buffer.sum()) for buffer in buffers] == [value * 102.0 for value in range(7)]
    assert len({buffer.untyped_storage().data_ptr() for buffer in [*buffers, scratch.half]}) == 1
    assert scratch.half.dtype is torch.int16
