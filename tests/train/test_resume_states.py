"""Runs with compressed optimizer states, resumed: the same bits as runs that were never interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from narrowgauge.optim import AdamW, Lion
from narrowgauge.train import Llama, LlamaConfig, Trainer, WarmupCosine
from narrowgauge.train.tree import flatten

ROOT = Path(__file__).parents[2]
SMALL = LlamaConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    return flatten(state)[1]


@pytest.mark.parametrize(("kind", "state", "master"), [
    (AdamW, "log8", "none"), (AdamW, "log4", "residual"), (AdamW, "bf16_sr", "sr"), (AdamW, ("int4", "solo"), "none"),
    (AdamW, "coat", "eco:int8/row"), (Lion, "int8", "residual"),
])  # fmt: skip
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    make_trainer: Callable[..., Trainer], tmp_path: Path, kind: Any, state: Any, master: str
) -> None:
    dtype = torch.bfloat16 if master in ("sr", "residual") else torch.float32

    def build() -> Trainer:
        return make_trainer(
            model=Llama(SMALL, seed=0).to(dtype),
            optimizer=lambda groups: kind(groups, lr=1e-2, state=state, master=master, seed=4),
            schedule=WarmupCosine(1e-2, 5, 2),
        )

    straight, first, second = build(), build(), build()
    straight.fit(5)
    first.fit(3)
    first.save(tmp_path / "last")
    second.resume(tmp_path / "last")
    second.fit(5)
    left, right = everything(straight), everything(second)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        assert torch.equal(value, right[name]), name
    assert second.optimizer.param_groups[0]["state"] == state


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_in_a_step_or_a_checkpoint_and_resumed(tmp_path: Path) -> None:
    script = ROOT / "tests" / "support" / "killed_runs.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    finished = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == 9
    assert not any(results.values()), results
