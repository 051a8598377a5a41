"""Training runs that are killed with SIGKILL, for tests/train/test_resume_states.py.

    python killed_runs.py FOLDER

forks one process for every run, which is killed in the middle of its 4th step or of the checkpoint after it, then
resumes each and writes FOLDER/results.json: run → "" or what differs from the run that was not killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from narrowgauge.optim import AdamW
from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer, WarmupCosine, checkpoint
from narrowgauge.train.tree import flatten

STEPS, KILLED_IN = 6, 4
SMALL = LlamaConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
KINDS: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "log8": ({"state": "log8"}, torch.float32),
    "log4": ({"state": "log4", "master": "residual"}, torch.bfloat16),
    "bf16_sr": ({"state": "bf16_sr", "master": "sr"}, torch.bfloat16),
}


def make_trainer(corpus: ByteCorpus, kind: str, path: Path | None) -> Trainer:
    options, dtype = KINDS[kind]
    return Trainer(
        Llama(SMALL, seed=0).to(dtype),
        BatchStream(corpus, batch_size=2, seq_len=16, validation_batches=1),
        lambda groups: AdamW(groups, lr=1e-2, seed=9, **options),
        schedule=WarmupCosine(1e-2, STEPS, 2),
        save_every=1 if path else 0,
        save_path=path,
    )


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_step(trainer: Trainer) -> None:
    """Dies once the first group of parameters has stepped and the second has not."""
    optimizer, calls = trainer.optimizer, []
    step_group = optimizer._step_group

    def dying(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 2 * KILLED_IN:
            kill()
        step_group(*args)

    optimizer._step_group = dying  # type: ignore[method-assign]


def in_a_file(trainer: Trainer) -> None:
    """Dies when half of the optimizer's file is written."""
    save_file = checkpoint.save_file

    def dying(tensors: Any, file: Path, **options: Any) -> None:
        save_file(tensors, file, **options)
        if trainer.step == KILLED_IN and file.name == "optimizer.safetensors":
            with file.open("r+b") as handle:
                handle.truncate(file.stat().st_size // 2)
            kill()

    checkpoint.save_file = dying


def between_names(trainer: Trainer) -> None:
    """Dies when the older checkpoint has given up its name and the new one has not taken it."""
    sync = checkpoint.sync

    def dying(path: Path) -> None:
        sync(path)
        if trainer.step == KILLED_IN and path.name == ".last.partial":
            checkpoint._make_room(path.with_name("last"))
            kill()

    checkpoint.sync = dying  # type: ignore[assignment]


DEATHS: tuple[Callable[[Trainer], None], ...] = (in_a_step, in_a_file, between_names)


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    return flatten(state)[1]


def run_until_killed(corpus: ByteCorpus, kind: str, death: Callable[[Trainer], None], path: Path) -> str:
    child = os.fork()
    if not child:
        trainer = make_trainer(corpus, kind, path)
        death(trainer)
        trainer.fit(STEPS)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    return "" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else f"ended with status {status}"


def compare(corpus: ByteCorpus, kind: str, path: Path) -> str:
    straight, resumed = make_trainer(corpus, kind, None), make_trainer(corpus, kind, path)
    straight.fit(STEPS)
    resumed.resume(path)
    if resumed.step != KILLED_IN - 1:
        return f"resumed at step {resumed.step}"
    resumed.fit(STEPS)
    left, right = everything(straight), everything(resumed)
    if left.keys() != right.keys():
        return "other tensors"
    different = [
        name for name, value in left.items() if value.dtype != right[name].dtype or not torch.equal(value, right[name])
    ]
    return f"different: {different}" if different else ""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    corpus = ByteCorpus(max_bytes=100_000)
    runs = {f"{kind} {death.__name__}": (kind, death) for kind in KINDS for death in DEATHS}
    results = {
        name: run_until_killed(corpus, kind, death, folder / name / "last") for name, (kind, death) in runs.items()
    }
    for name, (kind, _) in runs.items():
        results[name] = results[name] or compare(corpus, kind, folder / name / "last")
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
