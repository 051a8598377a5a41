from pathlib import Path

import pytest
import torch

from narrowgauge.methods.multilevel import VCycle, Visit, coalesce, decoalesce, interpolate_
from narrowgauge.train import BatchStream, ByteCorpus, Llama, LlamaConfig, Trainer
from narrowgauge.train.phases import run_phases

CONFIG = LlamaConfig(dim=32, num_layers=4, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=16)


def nudge(model: Llama, visit: Visit) -> None:
    """Stands for training: every parameter grows by a step's worth."""
    with torch.no_grad():
        for index, p in enumerate(model.parameters()):
            p.add_(0.01 * visit.steps * (index % 3 + 1 + visit.level))


def test_two_levels_are_the_steps_written_out() -> None:
    cycle = VCycle(down=(2,), bottom=5, up=(3,), ratio=0.25, depth="halves")
    model = Llama(CONFIG, seed=1)
    assert cycle.run(model, nudge) is model
    large = Llama(CONFIG, seed=1)
    nudge(large, Visit(0, "down", 2))
    small = coalesce(large, depth="halves")
    nudge(small, Visit(1, "bottom", 5))
    interpolate_(large, decoalesce(small, CONFIG, depth="halves"), 0.25)
    nudge(large, Visit(0, "up", 3))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), large.parameters(), strict=True))


def test_three_levels_are_visited_down_and_up() -> None:
    cycle = VCycle(down=(2, 3), bottom=5, up=(7, 11))
    seen: list[tuple[Visit, LlamaConfig]] = []
    cycle.run(Llama(CONFIG), lambda model, visit: seen.append((visit, model.config)))
    assert [visit for visit, _ in seen] == cycle.visits()
    assert [(visit.level, visit.part, visit.steps) for visit in cycle.visits()] == [
        (0, "down", 2), (1, "down", 3), (2, "bottom", 5), (1, "up", 11), (0, "up", 7),
    ]  # fmt: skip
    configs = cycle.configs(CONFIG)
    assert [(c.num_layers, c.dim, c.num_heads, c.num_kv_heads) for c in configs] == [
        (4, 32, 4, 2), (2, 16, 2, 1), (1, 8, 1, 1),
    ]  # fmt: skip
    assert [config for _, config in seen] == [configs[visit.level] for visit, _ in seen]


def test_a_visit_of_no_steps_is_left_out() -> None:
    parts: list[str] = []
    VCycle(down=(0,), bottom=1, up=(0,)).run(Llama(CONFIG), lambda model, visit: parts.append(visit.part))
    assert parts == ["bottom"]


def test_ratio_0_without_training_leaves_the_model_alone() -> None:
    model = Llama(CONFIG, seed=1)
    VCycle(down=(0,), bottom=4, up=(0,), ratio=0.0).run(model, nudge)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), Llama(CONFIG, seed=1).parameters(), strict=True))


def make_trainer(model: Llama, visit: Visit) -> Trainer:
    data = BatchStream(ByteCorpus(max_bytes=100_000), batch_size=2, seq_len=16, seed=visit.level, validation_batches=1)
    return Trainer(model, data, torch.optim.AdamW(model.parameters(), lr=1e-2))


def test_as_phases_an_interrupted_cycle_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    cycle = VCycle(down=(2, 1), bottom=3, up=(2, 1))
    straight = cycle.run(Llama(CONFIG, seed=1), lambda model, visit: make_trainer(model, visit).fit(visit.steps))

    def breaks(model: Llama, visit: Visit) -> Trainer:
        if (visit.level, visit.part) == (0, "up"):
            raise InterruptedError
        return make_trainer(model, visit)

    with pytest.raises(InterruptedError):
        run_phases(cycle.phases(Llama(CONFIG, seed=1), breaks), tmp_path)
    resumed = run_phases(cycle.phases(Llama(CONFIG, seed=1), make_trainer), tmp_path).trainer.model
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_a_trainer_of_another_model_is_refused() -> None:
    phases = VCycle(down=(0,), bottom=0, up=(0,)).phases(
        Llama(CONFIG), lambda model, visit: make_trainer(Llama(model.config), visit)
    )
    with pytest.raises(ValueError, match="trainer: expected to train the model it is given"):
        run_phases(phases)


def test_impossible_cycles_are_refused() -> None:
    with pytest.raises(ValueError, match="down, up: expected as many steps in both, at least one, got 1 and 2"):
        VCycle(down=(1,), bottom=1, up=(1, 1))
    with pytest.raises(ValueError, match="down, bottom, up: expected steps of at least 0"):
        VCycle(down=(1,), bottom=-1, up=(1,))
    with pytest.raises(ValueError, match="ratio: expected a number"):
        VCycle(down=(1,), bottom=1, up=(1,), ratio=2.0)
    with pytest.raises(ValueError, match="depth: expected one of adjacent, halves, kept, got 'deep'"):
        VCycle(down=(1,), bottom=1, up=(1,), depth="deep")
    with pytest.raises(ValueError, match="num_heads: expected an even number to pair, got 1"):
        VCycle(down=(1,) * 3, bottom=1, up=(1,) * 3, depth="kept").run(Llama(CONFIG), nudge)
