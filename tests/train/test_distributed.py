"""Runs in two processes. What the processes do is in tests/support/trainer_processes.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from narrowgauge.train.distributed import Processes, is_first
from two_processes import ROOT, SECONDS, run_two

needs_gloo = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch is built without gloo"
)


def test_a_run_without_torchrun_is_alone() -> None:
    for parallel in (None, "ddp", "fsdp2"):
        processes = Processes(parallel)
        assert (processes.parallel, processes.rank, processes.world, processes.first) == (None, 0, 1, True)
    assert is_first()
    batch = {"labels": torch.zeros(3, 2)}
    assert processes.rows(batch) is batch
    assert processes.total([1.5, 2]) == [1.5, 2]
    assert processes.agree("x") == "x"


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="parallel: expected None, 'ddp' or 'fsdp2', got 'fsdp'"):
        Processes("fsdp")


def test_alone_the_failure_of_the_first_process_is_its_own_error() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        Processes().first_does(fail)


@pytest.mark.parametrize(("rank", "rows"), [(0, [0, 1]), (1, [2, 3]), (2, [4])])
def test_rows_of_all_processes_are_the_batch(rank: int, rows: list[int]) -> None:
    processes = Processes()
    processes.rank, processes.world = rank, 3
    batch = {"labels": torch.arange(10).reshape(5, 2), "scale": torch.tensor(2.0), "table": torch.arange(7)}
    part = processes.rows(batch)
    assert torch.equal(part["labels"], batch["labels"][rows])
    assert part["scale"] is batch["scale"]  # not by rows
    assert part["table"] is batch["table"]


def test_a_process_without_rows_has_one_without_labels() -> None:
    processes = Processes()
    processes.rank, processes.world = 2, 3
    part = processes.rows({"input_ids": torch.arange(4).reshape(2, 2), "labels": torch.ones(2, 2, dtype=torch.int64)})
    assert part["input_ids"].tolist() == [[0, 1]]
    assert part["labels"].tolist() == [[-100, -100]]


def run(folder: Path, *scenarios: str) -> int:
    return run_two("trainer_processes.py", folder, *scenarios)


@needs_gloo
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    assert run(tmp_path, "two_processes_train_like_one") == 1


@needs_gloo
@pytest.mark.slow
def test_all_scenarios_of_two_processes(tmp_path: Path) -> None:
    assert run(tmp_path) == 9


PROGRAM = """
import sys
import torch
from narrowgauge.train import BatchStream, ByteCorpus, JsonlLogger, Llama, LlamaConfig, Trainer

torch.set_num_threads(1)
config = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
data = BatchStream(ByteCorpus(max_bytes=50_000), batch_size=4, seq_len=16, validation_batches=1)
trainer = Trainer(
    Llama(config), data, lambda groups: torch.optim.AdamW(groups, lr=1e-2), parallel=sys.argv[2], eval_every=2,
    save_every=2, save_path=f"{sys.argv[1]}/last", logger=JsonlLogger(f"{sys.argv[1]}/metrics.jsonl"),
)
trainer.fit(4)
"""


@needs_gloo
@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_one_script_runs_alone_and_by_torchrun(tmp_path: Path, parallel: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    losses = []
    for count, command in ((1, [sys.executable]), (2, torchrun)):
        folder = tmp_path / str(count)
        folder.mkdir()
        done = subprocess.run(
            [*command, str(script), str(folder), parallel],
            env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        losses.append([line["loss"] for line in lines] + [lines[-1]["val_loss"]])
        assert (folder / "last" / "state.json").exists()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
