"""What two processes do for tests/train/test_distributed.py: every scenario in one run, because processes start slowly.

    python trainer_processes.py RANK FOLDER [SCENARIO …]

writes FOLDER/RANK.json: scenario → "" or the traceback of what failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from averaged_weights import Averaged
from narrowgauge.optim import AdamW
from narrowgauge.train import BatchStream, ByteCorpus, Constant, History, Llama, LlamaConfig, Method, Trainer
from narrowgauge.train.data import Batch
from narrowgauge.train.distributed import is_first
from narrowgauge.train.early_stopping import EarlyStopping
from narrowgauge.train.phases import Phase, run_phases
from shard_scenarios import attempt, group, whole

SMALL = LlamaConfig(dim=16, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=32, max_seq_len=16)
CORPUS = ByteCorpus(max_bytes=50_000)
SAME = 1e-5
KINDS = ("ddp", "fsdp2")


class Uneven(BatchStream):
    """Rows with few labels, rows with many, and in every third batch labels in the first row alone."""

    def __next__(self) -> Batch:
        batch = super().__next__()
        for row, labels in enumerate(batch["labels"]):
            labels[: 3 * row] = -100
        if self.position % 3 == 0:
            batch["labels"][1:] = -100
        return batch


class Halves(Method):
    """Its loss reads the names and attributes of the model that it is given; its noise comes from the global
    generator, after the backward."""

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert next(iter(model.named_parameters()))[0] == "embed_tokens.weight"
        assert model.config == SMALL
        logits = model(batch["input_ids"])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        return loss, {"half": 0.5 * loss.item()}

    def gradient(self, model: nn.Module, step: int) -> None:
        for p in model.parameters():
            assert p.grad is not None
            p.grad.mul_(1 + 0.1 * float(torch.rand(())))


def trainer(
    parallel: str | None, *, model: nn.Module | None = None, compressed: bool = False, **settings: Any
) -> Trainer:
    def optimizer(groups: Any) -> torch.optim.Optimizer:
        return AdamW(groups, lr=1e-2, state="log8", seed=4) if compressed else torch.optim.AdamW(groups, lr=1e-2)

    data = settings.pop("data", None) or Uneven(CORPUS, batch_size=5, seq_len=16, validation_batches=2, seed=1)
    defaults = {"schedule": Constant(3e-3), "clip_norm": 0.5, "grad_accumulation": 2, "eval_every": 2}
    model = Llama(SMALL, seed=0) if model is None else model
    return Trainer(model, data, optimizer, parallel=parallel, **{**defaults, **settings})


def weights(of: Trainer) -> dict[str, Tensor]:
    return {name: whole(p.detach()) for name, p in of.model.named_parameters()}


def assert_close(one: dict[str, float], other: dict[str, float]) -> None:
    for name in set(one) - {"tokens_per_s", "step_ms", "memory_bytes"}:
        assert one[name] == pytest.approx(other[name], rel=SAME), name


def assert_equal(one: Trainer, other: Trainer) -> None:
    left, right = weights(one), weights(other)
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def two_processes_train_like_one(folder: Path) -> None:
    alone = trainer(None, methods=[Halves(), Averaged()])
    expected = [alone.fit(step) for step in range(1, 5)]
    for kind in KINDS:
        cut = trainer(kind, methods=[Halves(), Averaged()])
        for step, metrics in enumerate(expected, start=1):
            assert_close(cut.fit(step), metrics)
        left, right = weights(cut), weights(alone)
        for name, value in left.items():
            torch.testing.assert_close(value, right[name], rtol=1e-4, atol=1e-5)
        assert cut.data.state_dict() == alone.data.state_dict()


def a_process_without_rows_waits_for_the_others(folder: Path) -> None:
    def data() -> BatchStream:
        return BatchStream(CORPUS, batch_size=1, seq_len=16, validation_batches=2)

    expected = trainer(None, data=data()).fit(2)
    for kind in KINDS:
        assert_close(trainer(kind, data=data()).fit(2), expected)


def replicas_draw_apart_and_stay_alike(folder: Path) -> None:
    seen: list[Tensor] = []

    class Draws(Method):
        def loss(self, model: nn.Module, batch: Batch) -> None:
            seen.append(torch.rand(3))

        def post_step(self, model: nn.Module, step: int, old: Any) -> None:
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(1 + 0.01 * float(torch.rand(())))

    cut = trainer("ddp", methods=[Draws()])
    cut.fit(2)
    everyone: list[Any] = [None, None]
    dist.all_gather_object(everyone, (torch.stack(seen), weights(cut)))
    assert not torch.equal(everyone[0][0], everyone[1][0])
    assert all(torch.equal(value, everyone[1][1][name]) for name, value in everyone[0][1].items())


def checkpoints_resume_to_the_same_bits_and_in_one_process(folder: Path) -> None:
    for kind, compressed in (("ddp", True), ("fsdp2", False), ("fsdp2", True)):

        def build(parallel: str | None, compressed: bool = compressed) -> Trainer:
            stopping = EarlyStopping(patience=9)
            return trainer(parallel, compressed=compressed, methods=[Averaged()], early_stopping=stopping)

        path = folder / f"{kind}-{compressed}"
        straight, resumed, alone = build(kind), build(kind), build(None)
        straight.fit(2)
        straight.save(path)
        resumed.resume(path)
        alone.resume(path)
        for one in (resumed, alone):
            assert_equal(one, straight)
            assert one.early_stopping == straight.early_stopping
        expected = straight.fit(5)
        for one in (resumed, alone):
            metrics = one.fit(5)
            exact = one is resumed
            for name in ("loss", "val_loss", "average_val_loss"):
                # Codes of narrow rows have other groups in shards than in the whole.
                assert metrics[name] == (expected[name] if exact else pytest.approx(expected[name], rel=1e-3)), name
        assert_equal(resumed, straight)
        assert resumed.early_stopping == straight.early_stopping


def a_checkpoint_of_one_process_goes_on_in_two(folder: Path) -> None:
    alone = trainer(None, compressed=True)
    alone.fit(2)
    if is_first():
        alone.save(folder / "one")
    dist.barrier()
    expected = alone.fit(4)["loss"]
    for kind in KINDS:
        cut = trainer(kind, compressed=True)
        cut.resume(folder / "one")
        assert cut.fit(4)["loss"] == pytest.approx(expected, rel=1e-3)


def only_the_first_process_logs_and_writes(folder: Path) -> None:
    history = History()
    cut = trainer("ddp", logger=history, save_every=2, save_path=folder / "saved" / "last")
    metrics = cut.fit(3)
    everyone: list[Any] = [None, None]
    dist.all_gather_object(everyone, (len(history.records), {k: metrics[k] for k in ("loss", "val_loss", "grad_norm")}))
    assert [records for records, _ in everyone] == [3, 0]
    assert everyone[0][1] == everyone[1][1]
    assert sorted(p.name for p in (folder / "saved").iterdir()) == ["last", "last.previous"]


def failures_are_everybodys(folder: Path) -> None:
    precious = folder / "precious"
    precious.mkdir(exist_ok=True)
    (precious / "thesis.tex").touch()
    with pytest.raises(RuntimeError, match=r"process 0 failed: ValueError: path: .*precious exists and is not a"):
        trainer("ddp").save(precious)
    own = BatchStream(CORPUS, batch_size=4, seq_len=16, validation_batches=2, rank=dist.get_rank(), world_size=2)
    with pytest.raises(ValueError, match="data: the processes read different batches"):
        trainer("ddp", data=own).fit(1)
    model = Llama(SMALL)
    with pytest.raises(ValueError, match=r"optimizer: .* trainable parameters are not in it"):
        Trainer(model, own, torch.optim.AdamW(model.parameters()), parallel="fsdp2")


def early_stopping_is_at_one_step(folder: Path) -> None:
    cut = trainer("ddp", early_stopping=EarlyStopping(patience=1, min_delta=100.0), eval_every=1)
    cut.fit(9)
    assert cut.step == 2
    assert cut.stopped


def phases_hand_the_model_on(folder: Path) -> None:
    def phases(kind: str | None) -> list[Phase]:
        return [
            Phase("first", 2, lambda _: trainer(kind)),
            Phase("second", 2, lambda model: trainer(kind, model=model, methods=[Halves()])),
        ]

    expected = run_phases(phases(None)).metrics
    for kind in KINDS:
        result = run_phases(phases(kind), folder / f"phases-{kind}")
        for name, metrics in expected.items():
            assert_close(result.metrics[name], metrics)
        again = run_phases(phases(kind), folder / f"phases-{kind}")
        for name, metrics in result.metrics.items():
            assert_close(again.metrics[name], metrics)
        assert_equal(again.trainer, result.trainer)


SCENARIOS: tuple[Callable[[Path], None], ...] = (
    two_processes_train_like_one, a_process_without_rows_waits_for_the_others, replicas_draw_apart_and_stay_alike,
    checkpoints_resume_to_the_same_bits_and_in_one_process, a_checkpoint_of_one_process_goes_on_in_two,
    only_the_first_process_logs_and_writes, failures_are_everybodys, early_stopping_is_at_one_step,
    phases_hand_the_model_on,
)  # fmt: skip


def main(rank: int, folder: Path, names: list[str]) -> None:
    results: dict[str, str] = {}
    with group(folder, rank, 2, "two"):
        for scenario in [scenario for scenario in SCENARIOS if not names or scenario.__name__ in names]:
            attempt(results, scenario.__name__, lambda scenario=scenario: scenario(folder))
    (folder / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
