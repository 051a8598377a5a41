"""Shards of DTensors: which part this process holds, and steps of shards against steps of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from narrowgauge.optim import AdamW
from narrowgauge.optim.local import as_shard, cut_axis, group_of_shards, local_tensor, shape_of
from optimizer_steps import gaussian


@contextmanager
def process(rank: int, world: int) -> Iterator[DeviceMesh]:
    """This process as one of several, whose communication does nothing."""
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (world,))
    finally:
        dist.destroy_process_group()


def test_a_plain_tensor_is_its_own_local_part() -> None:
    p = nn.Parameter(torch.ones(3, 4))
    assert local_tensor(p).tensor is p
    assert local_tensor(p).offset == 0


@pytest.mark.parametrize(("rank", "rows", "offset"), [(0, 3, 0), (1, 3, 30), (3, 1, 90)])
def test_a_shard_knows_its_place(rank: int, rows: int, offset: int) -> None:
    with process(rank, 4) as mesh:
        whole = gaussian(10, 10)
        shard = DTensor.from_local(whole[3 * rank :][:rows], mesh, [Shard(0)], shape=(10, 10), stride=(10, 1))
        assert local_tensor(shard).offset == offset
        assert torch.equal(local_tensor(shard).tensor, whole.view(-1)[offset:].view(-1, 10)[:rows])
        assert shape_of(shard) == (rows, 10)
        assert local_tensor(DTensor.from_local(whole, mesh, [Replicate()])).offset == 0


def test_a_process_without_rows_holds_nothing() -> None:
    with process(3, 4) as mesh:
        shard = DTensor.from_local(torch.empty(0, 8), mesh, [Shard(0)], shape=(3, 8), stride=(8, 1))
        assert local_tensor(shard).offset == 0
        p = nn.Parameter(shard)
        p.grad = DTensor.from_local(torch.empty(0, 8), mesh, [Shard(0)], shape=(3, 8), stride=(8, 1))
        AdamW([p], clip_norm=1.0).step()


def test_a_shard_that_begins_at_an_odd_element_draws_from_the_next() -> None:
    with process(1, 2) as mesh:
        odd = DTensor.from_local(torch.ones(1, 5), mesh, [Shard(0)], shape=(2, 5), stride=(5, 1))
        assert local_tensor(odd)[1:] == (6, 1)


def test_what_is_cut_otherwise_is_refused() -> None:
    with process(1, 2) as mesh:
        columns = DTensor.from_local(torch.ones(4, 2), mesh, [Shard(1)], shape=(4, 4), stride=(4, 1))
        with pytest.raises(ValueError, match=r"accepted: replicated, or Shard\(0\) along one dimension of the mesh"):
            local_tensor(columns)
        with pytest.raises(ValueError, match="accepted: replicated, or"):
            AdamW([nn.Parameter(columns)])


def test_hybrid_shards_are_cut_along_one_dimension_of_the_mesh() -> None:
    """HSDP: two replicas of two shards each; and what is cut twice, as by FSDP2 with tensor parallelism, is refused."""
    dist.init_process_group("fake", rank=3, world_size=4, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        part = torch.ones(2, 6)
        hybrid = DTensor.from_local(part, mesh, [Replicate(), Shard(0)], shape=(4, 6), stride=(6, 1))
        assert cut_axis(hybrid) == 1
        assert local_tensor(hybrid)[1:] == (12, 2)
        assert group_of_shards(hybrid) is mesh.get_group("shard")
        again = as_shard(torch.zeros(2, 3, dtype=torch.uint8), hybrid)
        assert (again.shape, again.dtype, again.placements) == ((4, 3), torch.uint8, hybrid.placements)  # type: ignore[attr-defined]
        twice = DTensor.from_local(part[:1], mesh, [Shard(0), Shard(0)], shape=(4, 6), stride=(6, 1))
        with pytest.raises(ValueError, match="along one dimension"):
            cut_axis(twice)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("rank", [0, 1])
def test_shards_of_whole_groups_step_with_the_bits_of_the_whole(rank: int) -> None:
    """8 rows of whole groups, 4 in each process: stochastic roundings draw by the place in the whole parameter."""
    columns = 128 * (rank + 1)  # another shape for each rank, because torch keeps meshes by it from test to test
    w, g = gaussian(8, columns).bfloat16(), gaussian(8, columns, seed=1).bfloat16()
    whole = nn.Parameter(w.clone())
    whole.grad = g.clone()
    reference = AdamW([whole], state="log8", master="residual", seed=2)
    with process(rank, 2) as mesh:
        half = slice(4 * rank, 4 * rank + 4)
        p = nn.Parameter(DTensor.from_local(w[half].clone(), mesh, [Shard(0)]))
        p.grad = DTensor.from_local(g[half].clone(), mesh, [Shard(0)])
        sharded = AdamW([p], state="log8", master="residual", seed=2)
        for _ in range(3):
            reference.step()
            sharded.step()
        assert torch.equal(local_tensor(p).tensor, whole[half])
        for key, value in sharded.state[p].items():
            if key != "step":
                share = reference.state[whole][key].view(2, -1)[rank]
                assert torch.equal(value.view(-1), share), key
        assert sharded.state_bytes().parameters == 4 * columns
