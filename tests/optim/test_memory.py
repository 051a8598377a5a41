"""Bytes of live storage."""

from __future__ import annotations

import torch

from narrowgauge.optim.memory import StateBytes, StaticBytes, total_bytes


def test_a_storage_is_counted_once_and_whole() -> None:
    base = torch.zeros(100)
    assert total_bytes([base[:10], base[50:], base.view(10, 10)]) == 400
    assert total_bytes([base, torch.zeros(5, dtype=torch.uint8)]) == 405
    assert total_bytes([]) == 0


def test_per_parameter_of_nothing_is_zero() -> None:
    assert StateBytes(0, 0).per_parameter == 0.0
    assert StaticBytes(0, 0, 0, 0, 0).per_parameter == 0.0
    assert StaticBytes(4, 1, 2, 1, 4).per_parameter == 2.0
