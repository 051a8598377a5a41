"""The ring as threads of this process, and as processes; what each rank does is in tests/support/ring_scenarios.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from narrowgauge.methods.mtraining import RingAttention, Topology, run_threads, shard_positions
from ring_scenarios import SELECTION, a_model_is_that_of_one_device, attention_is_that_of_one_device, gaussian

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "support" / "ring_scenarios.py"
TOPOLOGIES = [(1, 1), (1, 2), (2, 1), (1, 4), (4, 1), (2, 2), (2, 3), (3, 2)]
SECONDS = 120


@pytest.mark.parametrize("topology", [Topology(*sizes) for sizes in TOPOLOGIES], ids=str)
def test_every_pair_of_shards_meets_once(topology: Topology) -> None:
    ranks = range(topology.world)
    steps = [(outer, inner) for outer in range(topology.nodes) for inner in range(topology.devices)]
    for rank in ranks:
        assert sorted(topology.holder(rank, *step) for step in steps) == list(ranks)
        assert topology.holder(rank, 0, 0) == rank
    for step in steps:
        assert sorted(topology.holder(rank, *step) for rank in ranks) == list(ranks)


@pytest.mark.parametrize("layout", ["striped", "zigzag", "contiguous"])
@pytest.mark.parametrize("topology", [Topology(*sizes) for sizes in TOPOLOGIES], ids=str)
def test_attention_is_that_of_one_device(topology: Topology, layout: str) -> None:
    run_threads(topology.world, lambda transport: attention_is_that_of_one_device(transport, topology, layout))


def test_a_model_is_that_of_one_device() -> None:
    topology = Topology(2, 2)
    run_threads(4, lambda transport: a_model_is_that_of_one_device(transport, topology))


def test_gradients_of_bfloat16_are_added_up_in_float32() -> None:
    """Rounded once, at the end: the same as the float32 gradient of the same values, rounded."""
    topology, positions = Topology(1, 4), shard_positions(48, 4, 2)

    def gradient(rank_dtype: torch.dtype) -> list[Tensor]:
        def body(transport: object) -> Tensor:
            x = gaussian(1, 2, 12, 8, seed=transport.rank).bfloat16().to(rank_dtype)  # type: ignore[attr-defined]
            q, k, v = (x.clone().requires_grad_() for _ in range(3))
            out = RingAttention(transport, topology, positions, None, 2)(q, k, v)  # type: ignore[arg-type]
            out.backward(torch.ones_like(out))
            return k.grad

        return run_threads(4, body)

    for low, high in zip(gradient(torch.bfloat16), gradient(torch.float32), strict=True):
        assert torch.equal(low, high.bfloat16())


def test_another_world_is_refused() -> None:
    positions = shard_positions(48, 2, 2)
    x = gaussian(1, 2, 24, 8, seed=0)
    with pytest.raises(ValueError, match=r"topology: .* has 4 processes, the transport 2"):
        run_threads(2, lambda transport: RingAttention(transport, Topology(2, 2), positions, SELECTION)(x, x, x))
    with pytest.raises(ValueError, match="nodes, devices: expected at least 1 of each, got 0 and 2"):
        Topology(0, 2)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch is built without gloo")
@pytest.mark.parametrize("topology", [Topology(1, 2), pytest.param(Topology(2, 2), marks=pytest.mark.slow)], ids=str)
def test_processes(topology: Topology, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    sizes = [str(topology.nodes), str(topology.devices)]
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), *sizes, str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(topology.world)
    ]
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * topology.world, errors
    for rank in range(topology.world):
        results = json.loads((tmp_path / f"{rank}.json").read_text())
        assert list(results) == ["contiguous", "zigzag", "striped", "model"]
        assert not any(results.values()), "\n".join(results.values())
