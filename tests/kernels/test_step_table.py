"""The tables of launches over many tensors: which launches there are, where programs find theirs, what is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from narrowgauge.kernels import _step_table
from narrowgauge.kernels._step_table import FIELDS, MOST_TABLES, Entry, grouped, rows_on, tables

CPU = torch.device("cpu")


def lists(p: list[Tensor], g: list[Tensor]) -> list[list[Tensor]]:
    return [p, g, [], [], [], [], []]


def test_each_combination_of_dtypes_is_one_launch_and_empty_tensors_are_none() -> None:
    p = [torch.zeros(n, dtype=dtype) for n, dtype in ((32, torch.float32), (0, torch.float32), (64, torch.bfloat16))]
    p += [torch.zeros(48), torch.zeros(16)]
    g = [torch.zeros_like(t) for t in p[:4]] + [torch.zeros(16, dtype=torch.bfloat16)]
    groups = {key: [entry.row for entry in entries] for key, entries, _ in grouped(lists(p, g), 32)}
    assert groups == {
        (torch.float32, torch.float32, True): [0, 3],
        (torch.bfloat16, torch.bfloat16, True): [2],
        (torch.float32, torch.bfloat16, True): [4],
    }


@pytest.mark.parametrize(("start", "size", "aligned"), [(0, 64, True), (4, 64, True), (1, 64, False), (0, 65, False)])
def test_aligned_are_tensors_whose_addresses_and_sizes_allow_the_widest_access(
    start: int, size: int, aligned: bool
) -> None:
    p = torch.zeros(80)[start : start + size]
    ((key, _, _),) = grouped(lists([p], [torch.zeros(size)]), 32)
    assert key[2] is aligned


def test_entries_say_where_tensors_lie_and_where_their_programs_begin() -> None:
    p, g = [torch.zeros(100), torch.zeros(32), torch.zeros(33)], [torch.zeros(100), torch.zeros(32), torch.zeros(33)]
    m = [torch.zeros(n, dtype=torch.int8) for n in (100, 32, 33)]
    ((_, entries, programs),) = [group for group in grouped([p, g, m, [], [], [], []], 32) if group[0][2] is False]
    assert programs == [4, 2]
    assert [entry.first for entry in entries] == [0, 4]
    assert entries[1] == Entry(p[2].data_ptr(), g[2].data_ptr(), m[2].data_ptr(), 0, 0, 0, 0, 33, 4, 2)
    addresses, owners = tables(entries, programs, CPU)
    assert addresses.shape == (2, FIELDS)
    assert addresses.tolist() == [list(entry) for entry in entries]
    assert owners.dtype is torch.int32
    assert owners.tolist() == [0, 0, 0, 0, 1, 1]


def entry(address: int) -> Entry:
    return Entry(address, 16, 0, 0, 0, 0, 0, 64, 0, 0)


def test_tables_are_made_once_while_addresses_and_sizes_stay() -> None:
    first = tables([entry(32)], [2], CPU)
    again = tables([entry(32)], [2], CPU)
    moved = tables([entry(48)], [2], CPU)
    assert again[0] is first[0]
    assert again[1] is first[1]
    assert moved[0] is not first[0]
    assert moved[1] is first[1]


def test_a_change_of_programs_makes_a_new_map() -> None:
    assert tables([entry(32)], [2], CPU)[1].tolist() == [0, 0]
    assert tables([entry(32)], [3], CPU)[1].tolist() == [0, 0, 0]


def test_kept_tables_are_few() -> None:
    for address in range(0, 16 * 3 * MOST_TABLES, 16):
        tables([entry(address)], [1], CPU)
    assert len(_step_table._tables) <= MOST_TABLES


def test_rows_on_their_device_are_taken_as_they_are() -> None:
    rows = torch.zeros(2, 15, dtype=torch.float64)
    assert rows_on(rows, CPU) is rows


def test_rows_that_a_graph_would_freeze_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_step_table, "_is_capturing", lambda device: True)
    with pytest.raises(RuntimeError, match="rows: expected on meta while a CUDA graph is captured, got cpu"):
        rows_on(torch.zeros(1, 15, dtype=torch.float64), torch.device("meta"))


def test_what_a_graph_copies_is_kept_for_the_graph_and_from_other_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    captured: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(_step_table, "_captured", captured)
    monkeypatch.setattr(_step_table, "_is_capturing", lambda device: True)
    unknown = tables([entry(1 << 40)], [7], CPU)
    assert [kept for _, kept in captured] == list(unknown)
    monkeypatch.setattr(_step_table, "_is_capturing", lambda device: False)
    assert tables([entry(1 << 40)], [7], CPU)[0] is not unknown[0]
