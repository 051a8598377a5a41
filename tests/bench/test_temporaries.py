"""The peak of a call's memory is what its tensors hold at once, not what they hold together."""

from __future__ import annotations

import torch

from narrowgauge.bench.temporaries import peak_bytes


def test_one_tensor_counts_whole(device: torch.device) -> None:
    assert peak_bytes(lambda: torch.empty(1 << 18, device=device), device) == 4 << 18


def test_what_is_freed_before_does_not_add_up(device: torch.device) -> None:
    def call() -> None:
        for _ in range(5):
            torch.empty(1 << 18, device=device)

    assert peak_bytes(call, device) == 4 << 18


def test_tensors_held_together_do(device: torch.device) -> None:
    assert peak_bytes(lambda: [torch.empty(1 << 18, device=device) for _ in range(3)], device) == 12 << 18


def test_what_an_operator_allocates_within_itself_counts() -> None:
    x = torch.ones(1 << 16)
    assert peak_bytes(lambda: torch.sort(x)) > 2 * x.nbytes


def test_what_was_there_before_does_not_count() -> None:
    x = torch.ones(1 << 16)
    assert peak_bytes(lambda: x.add_(1.0)) < 1024
