"""Moments cut by rows: put together and cut again, in the same way and in others."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from narrowgauge.kernels.stored_moments import read_moments, write_moments
from narrowgauge.optim.by_rows import by_rows, cut_groups, in_memory, is_intact, read_rows, row_layout
from narrowgauge.optim.codec import State, empty_moments, moments_of, stored

KEYS = ("exp_avg", "exp_avg_sq")
DRAWS = (11, 12)
CPU = torch.device("cpu")
STATES = (
    "log8", "log4", "coat", "int8", "flash", "int4", "solo", "bf16_sr", ("nf4/1x32", "e2m1fn/1x64"), ("log8", "int4"),
    ("log4", "udynamic8/1x512"),
)  # fmt: skip
SHAPES = ((7, 256), (700,), (11, 40), (6, 2, 45), (5, 1), (3, 0))


def cut(shape: tuple[int, ...], bounds: list[int]) -> list[torch.Size]:
    return [torch.Size((stop - start, *shape[1:])) for start, stop in pairwise(bounds)]


def written(state: object, shape: tuple[int, ...], bounds: list[int]) -> list[State]:
    """States in memory of shards that begin at these rows."""
    moments, states = moments_of(state, KEYS), []
    generator = torch.Generator().manual_seed(3)
    row = torch.Size(shape[1:]).numel()
    for first, part in zip(bounds, cut(shape, bounds), strict=False):
        m = torch.randn(part, generator=generator) * 1e-3
        v = m.square() + 1e-9 * torch.rand(part, generator=generator)
        result = empty_moments(moments, part, CPU)
        into = [stored(result, key) for key in KEYS]
        write_moments(moments.first, moments.second, m, v, *into, DRAWS, first * row + first * row % 2)
        states.append(result)
    return states


def read(state: object, parts: list[State], shape: tuple[int, ...], bounds: list[int]) -> list[Tensor]:
    moments, row = moments_of(state, KEYS), torch.Size(shape[1:]).numel()
    wide = []
    for first, part, local in zip(bounds, parts, cut(shape, bounds), strict=False):
        m, v = (stored(part, key) for key in KEYS)
        offset = first * row + first * row % 2
        wide.append(read_moments(moments.first, moments.second, m, v, local, DRAWS, offset))
    return [torch.cat([pair[index] for pair in wide]) for index in (0, 1)]  # type: ignore[misc]


def whole_rows(state: object, parts: list[State], shape: tuple[int, ...], bounds: list[int]) -> State:
    moments = moments_of(state, KEYS)
    rows = [by_rows(part, moments, local) for part, local in zip(parts, cut(shape, bounds), strict=True)]
    return {key: torch.cat([part[key] for part in rows]) for key in rows[0]}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("state", STATES, ids=str)
def test_cut_as_they_were_written_nothing_changes(state: object, shape: tuple[int, ...]) -> None:
    moments, bounds = moments_of(state, KEYS), [0, shape[0] // 2, shape[0], shape[0]]
    parts = written(state, shape, bounds)
    rows = whole_rows(state, parts, shape, bounds)
    assert {key: (tuple(value.shape), value.dtype) for key, value in rows.items()} == row_layout(
        moments, torch.Size(shape)
    )
    for (start, stop), part, local in zip(pairwise(bounds), parts, cut(shape, bounds), strict=True):
        again = {key: value[start:stop] for key, value in rows.items()}
        assert is_intact(again, moments, local)
        back = in_memory(again, moments, local)
        assert back.keys() == part.keys()
        for key, value in part.items():
            assert back[key].dtype == value.dtype, key
            assert torch.equal(back[key], value), key


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("state", STATES, ids=str)
def test_cut_otherwise_they_read_back_as_before(state: object, shape: tuple[int, ...]) -> None:
    moments, bounds = moments_of(state, KEYS), [0, shape[0] // 3, shape[0] // 3, shape[0] - 1, shape[0]]
    parts = written(state, shape, bounds)
    rows, expected = whole_rows(state, parts, shape, bounds), read(state, parts, shape, bounds)
    uneven = cut_groups(moments, torch.Size(shape))
    for start, stop in ((0, shape[0]), (1, shape[0] - 1), (shape[0] // 2, shape[0])):
        part, local = {key: value[start:stop] for key, value in rows.items()}, torch.Size((stop - start, *shape[1:]))
        if uneven:
            actual = read_rows(part, moments, local, DRAWS, start)
        else:
            offset = start * local[1:].numel()
            whole = in_memory(part, moments, local)
            m, v = (stored(whole, key) for key in KEYS)
            actual = read_moments(moments.first, moments.second, m, v, local, DRAWS, offset)
        for value, wanted in zip(actual, expected, strict=True):
            assert value is not None
            assert torch.equal(value, wanted[start:stop])


def test_rows_of_whole_groups_are_views_of_the_memory() -> None:
    (state,) = written("log4", (4, 128), [0, 4])
    rows = by_rows(state, moments_of("log4", KEYS), torch.Size((4, 128)))
    assert {key: value.data_ptr() for key, value in rows.items()} == {k: v.data_ptr() for k, v in state.items()}
    assert rows["exp_avg"].shape == (4, 64)
    assert rows["exp_avg_scale"].shape == (4, 2, 1)


def test_a_shard_that_grew_shrank_or_lost_its_beginning_is_told_apart() -> None:
    moments, shape = moments_of("coat", KEYS), (200,)
    rows = whole_rows("coat", written("coat", shape, [0, 100, 200]), shape, [0, 100, 200])
    cuts = {(0, 100): True, (0, 90): True, (100, 200): True, (0, 101): False, (1, 100): False, (90, 200): False}
    for (start, stop), intact in cuts.items():
        part = {key: value[start:stop] for key, value in rows.items()}
        assert is_intact(part, moments, torch.Size((stop - start,))) is intact, (start, stop)
    short = in_memory({key: value[:90] for key, value in rows.items()}, moments, torch.Size((90,)))
    m, v = (stored(short, key) for key in KEYS)
    before = read("coat", written("coat", shape, [0, 100, 200]), shape, [0, 100, 200])
    after = read_moments(moments.first, moments.second, m, v, torch.Size((90,)), DRAWS)
    assert all(torch.equal(value, wanted[:90]) for value, wanted in zip(after, before, strict=True))  # type: ignore[arg-type]
