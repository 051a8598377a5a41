"""Rows of numbers: the host's, the device's, and the keys in them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from narrowgauge.kernels.random_words import FIRST, SECOND, STREAMS, WEIGHT, key_of
from narrowgauge.kernels.step_rules import ROW_LENGTH, Row
from narrowgauge.optim.rows import Draws, Numbers, device_rows, host_rows, key_at, stages

EVERYTHING = Draws(True, True, True, True, True)


def adam(step: Any) -> Numbers:
    return Numbers(1e-3, 0.1, 0.9, 0.999, 1e-8, 1 - 0.9**step, 1 - 0.999**step)


@pytest.mark.parametrize("purpose", [FIRST, SECOND, WEIGHT])
def test_keys_are_those_of_the_definition(purpose: int) -> None:
    for seed, position, step in ((0, 0, 0), (1, 0, 1), (2**32 - 1, 999, 16_777_216), (7, 3, 12)):
        assert key_at(seed, position, purpose, step) == key_of(seed, STREAMS * position + purpose, step)


def test_a_row_has_the_fields_in_their_order() -> None:
    rows = host_rows([3], adam, [5], [256], 11, EVERYTHING, 0.5)
    row = Row(*rows[0].tolist())
    assert rows.dtype is torch.float64
    assert (row.step, row.lr, row.weight_decay, row.a, row.b, row.eps) == (3, 1e-3, 0.1, 0.9, 0.999, 1e-8)
    assert (row.c1, row.c2, row.grad_scale, row.offset) == (1 - 0.9**3, 1 - 0.999**3, 0.5, 256)
    written = (row.first_key, row.second_key, row.weight_key)
    assert written == tuple(key_of(11, STREAMS * 5 + purpose, 3) for purpose in (FIRST, SECOND, WEIGHT))
    read = (row.read_first_key, row.read_second_key)
    assert read == tuple(key_of(11, STREAMS * 5 + purpose, 2) for purpose in (FIRST, SECOND))


def test_keys_that_nobody_needs_are_zero() -> None:
    row = Row(*host_rows([3], adam, [5], [0], 11, Draws(False, True, False, False, False), 1.0)[0].tolist())
    assert (row.first_key, row.weight_key, row.read_first_key, row.read_second_key) == (0, 0, 0, 0)
    assert row.second_key == key_of(11, STREAMS * 5 + SECOND, 3)


def test_each_tensor_has_its_own_step() -> None:
    rows = host_rows([1, 7, 1], adam, [0, 1, 2], [0, 0, 0], 0, EVERYTHING, 1.0)
    assert rows.shape == (3, ROW_LENGTH)
    assert rows[:, 0].tolist() == [1, 7, 1]
    assert rows[0, 6] == rows[2, 6] != rows[1, 6]


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_rows_of_tensor_operations_are_those_of_the_host(seed: int) -> None:
    steps, positions, offsets = [1, 2, 1_000_000], [0, 40, 7], [0, 2, 1 << 40]
    host = host_rows(steps, adam, positions, offsets, seed, EVERYTHING, 0.25)
    when = torch.tensor(steps, dtype=torch.float64)
    staged = stages(seed, positions, torch.device("cpu"))
    numbers = adam(when)._replace(lr=torch.tensor(1e-3, dtype=torch.float64))
    places = torch.tensor(offsets, dtype=torch.float64)
    device = device_rows(when, numbers, staged, places, EVERYTHING, torch.tensor(0.25))
    torch.testing.assert_close(device, host, rtol=1e-14, atol=0.0)
    assert torch.equal(device[:, 9:14], host[:, 9:14])  # keys
