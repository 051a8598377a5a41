"""What all suites that train share of a run: its settings, its initial model, its final loss."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from narrowgauge.bench.training_run import TrainingSettings, initial_model, validation_loss
from narrowgauge.train import ByteCorpus

SETTINGS = TrainingSettings(
    dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=32, seq_len=16, steps=4, final_windows=32
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> ByteCorpus:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(f"line {n}: {n * n} is the square of {n}\n" for n in range(200)))
    return ByteCorpus(path)


def test_final_loss_is_the_mean_over_all_windows(corpus) -> None:
    model = initial_model(0, SETTINGS)
    (batch,) = corpus.validation(1, SETTINGS.final_windows, SETTINGS.seq_len)
    expected = torch.nn.functional.cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())
    assert validation_loss(model, corpus, SETTINGS) == pytest.approx(expected.item(), rel=1e-6)


def test_perturbation_has_the_size_that_was_asked_for() -> None:
    plain, near = (
        torch.nn.utils.parameters_to_vector(initial_model(0, SETTINGS, size).parameters()).double()
        for size in (0.0, 1e-3)
    )
    moved = ((near - plain) / plain).square().mean().sqrt()
    assert moved.item() == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"final_windows": 24}, "final_windows: expected a multiple of 16, got 24"),
        ({"dim": 33}, "dim: expected"),
        ({"warmup": 2.0}, "warmup: expected"),
        ({"final_lr": -1.0}, "final_ratio: expected"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **change)
