"""State dicts of shards. What takes real processes is in tests/support/shard_scenarios.py, all in one run of two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from narrowgauge.optim import AdamW
from narrowgauge.optim.sharded import local_value
from two_processes import run_two

# NMSE of what groups of other shards read back as after they were encoded anew: about that of one store of the codec.
MOST_ERROR = {"log8": 5e-4, "coat": 5e-4, "log4": 3e-2, "fp8": 1e-3, "solo": 8e-2, "fp32": 0.0}


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch is built without gloo")
def test_two_processes(tmp_path: Path) -> None:
    assert run_two("shard_scenarios.py", tmp_path) > 10
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert measured.keys() == {"1", "2"}
    for phase, errors_of in measured.items():
        for name, error in errors_of.items():
            assert error <= MOST_ERROR[name.split()[0]], (phase, name, error)


@contextmanager
def process(rank: int, world: int) -> Iterator[DeviceMesh]:
    """This process as one of several, whose communication does nothing."""
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (world,))
    finally:
        dist.destroy_process_group()


def shard_of(whole: Tensor, mesh: DeviceMesh) -> DTensor:
    rows = -(-whole.shape[0] // mesh.size())
    part = whole[rows * mesh.get_rank() :][:rows].clone()
    return DTensor.from_local(part, mesh, [Shard(0)], shape=whole.shape, stride=whole.stride())


def test_a_saved_tensor_is_cut_as_its_parameter() -> None:
    whole = torch.arange(12.0).view(6, 2)
    with process(1, 3) as mesh:
        p = shard_of(whole, mesh)
        assert local_value(whole, p, "x").tolist() == [[4, 5], [6, 7]]
        assert local_value(DTensor.from_local(whole, mesh, [Replicate()]), p, "x").tolist() == [[4, 5], [6, 7]]
        assert local_value(shard_of(whole, mesh), p, "x").tolist() == [[4, 5], [6, 7]]
        assert local_value(whole, whole, "x") is whole
        with pytest.raises(ValueError, match=r"state_dict: x: expected a plain tensor, as its parameter is.*Shard"):
            local_value(p, whole, "x")
        columns = DTensor.from_local(whole[:, :1], mesh, [Shard(1)], shape=(6, 3), stride=(3, 1))
        with pytest.raises(ValueError, match="accepted: replicated, or"):
            local_value(columns, p, "x")


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("state", ["coat", "log4", "int4", "bf16"])
def test_a_process_takes_its_rows_of_whole_states(state: str, rank: int) -> None:
    """From a state_dict of plain parameters; the last of three processes has no rows of the first parameter."""
    # Other shapes for each rank, because torch keeps what it knows of meshes from test to test.
    shapes = [(4, 128 * (1 + rank)), (7, 40 + rank), (3 + rank,)]
    plain = [nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1))) for shape in shapes]
    for p in plain:
        p.grad = p.detach().clone()
    whole = AdamW(plain, state=state)
    whole.step()
    with process(rank, 3) as mesh:
        cut = [nn.Parameter(shard_of(p.detach(), mesh)) for p in plain]
        optimizer = AdamW(cut, state="fp32")
        optimizer.load_state_dict(whole.state_dict())
        for p, q in zip(plain, cut, strict=True):
            rows = -(-p.shape[0] // 3)
            for mine, all_of_it in zip(optimizer.moments(q), whole.moments(p), strict=True):
                assert mine is not None
                assert all_of_it is not None
                expected = all_of_it[rows * rank :][:rows]
                assert mine.shape == expected.shape
                scale = float(all_of_it.abs().max())
                torch.testing.assert_close(mine, expected, rtol=0.3, atol=0.1 * scale)
                if p.shape[0] == 4 and p.ndim == 2 and state != "int4":
                    assert torch.equal(mine, expected)


def test_a_state_of_another_shape_or_codec_is_refused() -> None:
    with process(0, 2) as mesh:
        p = nn.Parameter(shard_of(torch.ones(4, 128), mesh))
        p.grad = shard_of(torch.ones(4, 128), mesh)
        optimizer = AdamW([p], state="coat")
        optimizer.step()
        saved = optimizer.state_dict()
        assert saved["state"][0]["exp_avg_scale"].shape == (4, 1, 2)
        for key, value in (("exp_avg", torch.zeros(5, 128, dtype=torch.uint8)), ("exp_avg_sq", torch.zeros(4, 128))):
            broken = {**saved, "state": {0: {**saved["state"][0], key: value}}}
            with pytest.raises(ValueError, match=f"state_dict: {key}: expected torch.uint8"):
                optimizer.load_state_dict(broken)
        missing = {key: value for key, value in saved["state"][0].items() if key != "exp_avg_scale"}
        with pytest.raises(ValueError, match="has the entries exp_avg, exp_avg_scale"):
            optimizer.load_state_dict({**saved, "state": {0: missing}})
