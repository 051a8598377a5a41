"""Shards of several processes (threads here, with real collectives) against the whole in one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import _set_thread_isolation_mode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.multi_threaded_pg import _install_threaded_pg, _uninstall_threaded_pg

from narrowgauge.optim.gather import gathered, own_part
from narrowgauge.optim.lamb import LAMB
from narrowgauge.optim.muon import Muon
from optimizer_steps import gaussian


def run(world: int, body: Callable[[int, DeviceMesh], Any]) -> list[Any]:
    """What `body(rank, mesh)` returns in each of so many threads, each a process of one group."""
    results: list[Any] = [None] * world
    errors: list[BaseException] = []
    _install_threaded_pg()
    _set_thread_isolation_mode(True)
    store = dist.HashStore()

    def main(rank: int) -> None:
        try:
            dist.init_process_group("threaded", rank=rank, world_size=world, store=store)
            results[rank] = body(rank, init_device_mesh("cpu", (world,)))
        except BaseException as error:  # to be raised by the thread that waits
            errors.append(error)
        finally:
            dist.destroy_process_group()

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    _set_thread_isolation_mode(False)
    _uninstall_threaded_pg()
    if errors:
        raise errors[0]
    return results


def shard_of(whole: Tensor, rank: int, world: int, mesh: DeviceMesh) -> DTensor:
    rows = -(-whole.shape[0] // world)
    part = whole[rows * rank :][:rows].contiguous()
    return DTensor.from_local(part, mesh, [Shard(0)], shape=whole.shape, stride=whole.stride())


@pytest.mark.parametrize("shape", [(8, 6), (7, 4), (5, 2, 3), (1, 4)])
def test_shards_make_the_whole_and_the_whole_its_shards(shape: tuple[int, ...]) -> None:
    whole = gaussian(*shape)

    def body(rank: int, mesh: DeviceMesh) -> bool:
        p = shard_of(whole, rank, 2, mesh)
        part = p.to_local()
        return torch.equal(gathered(part, p), whole) and torch.equal(own_part(whole, p), part)

    assert run(2, body) == [True, True]


def test_what_is_not_cut_is_itself() -> None:
    x = gaussian(3, 4)
    assert gathered(x, x) is x
    assert own_part(x, x) is x
    assert run(2, lambda _, mesh: gathered(x, DTensor.from_local(x, mesh, [Replicate()])) is x) == [True, True]


@pytest.mark.parametrize(("state", "shape", "options"), [
    ("fp32", (8, 12), {}), ("log8", (8, 32), {}), ("fp32", (7, 12), {}), ("fp32", (6, 4, 3), {"matrices": "flatten"}),
])  # fmt: skip
def test_muon_steps_shards_like_the_whole(state: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    alone = nn.Parameter(gaussian(*shape))
    reference = Muon([alone], lr=0.1, state=state, **options)

    def body(rank: int, mesh: DeviceMesh) -> Tensor:
        p = nn.Parameter(shard_of(gaussian(*shape), rank, 2, mesh))
        optimizer = Muon([p], lr=0.1, state=state, **options)
        for t in range(3):
            p.grad = shard_of(gaussian(*shape, seed=10 + t), rank, 2, mesh)
            optimizer.step()
        assert optimizer.state[p]["momentum_buffer"].shape == p.to_local().shape
        return p.to_local().detach()

    for t in range(3):
        alone.grad = gaussian(*shape, seed=10 + t)
        reference.step()
    # Shards begin at whole groups of the codec in these shapes, so that even coded momentum is the same.
    torch.testing.assert_close(torch.cat(run(2, body)), alone.detach(), rtol=0, atol=1e-6)


def test_shards_are_refused_where_nothing_gathers_them_or_they_are_cut_otherwise() -> None:
    def body(rank: int, mesh: DeviceMesh) -> None:
        rows, columns = (nn.Parameter(DTensor.from_local(gaussian(4, 4), mesh, [Shard(axis)])) for axis in (0, 1))
        with pytest.raises(ValueError, match="LAMB needs whole tensors; accepted: plain and replicated ones, or an"):
            LAMB([rows])
        with pytest.raises(ValueError, match=r"accepted: .*Shard\(0\)"):
            Muon([columns])
        Muon([rows], algorithm="adamw", lr=0.0)

    run(2, body)
