"""Ranks among thresholds by buckets, against a search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.kernels._ranks_torch import buckets, ranks
from narrowgauge.kernels.tables import ordered

CPU = torch.device("cpu")


@pytest.mark.parametrize(("step", "cut"), [(2.0**-6, 16), (2.0**-10, 12), (2.0**-16, 0)])
def test_ranks_count_thresholds_with_buckets_as_wide_as_they_may_be(step: float, cut: int) -> None:
    positive = 1.0 + step * np.arange(40)
    thresholds = ordered(np.concatenate([-positive[::-1], [0.0], positive]).astype(np.float32))
    table = buckets(thresholds, CPU)
    assert table.cut == cut
    assert (table.steps is None) == (cut == 0)
    rng = np.random.default_rng(0)
    border = thresholds.astype(np.int64)[:, None] + np.arange(-2, 3)
    bits = np.concatenate([border.reshape(-1), rng.integers(-(2**31), 2**31, 5000)]).astype(np.int32)
    x = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    spare, out = torch.empty((2, x.size), dtype=torch.int32)
    found = ranks(torch.from_numpy(x.copy()), table, spare, out)
    np.testing.assert_array_equal(found.numpy(), np.searchsorted(thresholds, bits, side="right"))
    assert found.data_ptr() == out.data_ptr()


def test_no_thresholds_have_rank_zero() -> None:
    table = buckets(np.empty(0, np.int32), CPU)
    spare, out = torch.empty((2, 4), dtype=torch.int32)
    bits = torch.tensor([1.0, -1.0, 0.0, float("inf")]).view(torch.int32)
    assert ranks(bits, table, spare, out).tolist() == [0, 0, 0, 0]
