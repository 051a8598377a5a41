"""The devices that a bench accepts."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.bench.machine import check_device


def test_a_cpu_is_there() -> None:
    check_device("cpu")


@pytest.mark.parametrize("device", ["meta", "xpu", "gpu", "cuda:99", "", "cuda:x"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"device: got '{device}', accepted here: cpu"):
        check_device(device)


def test_cuda_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda", "cuda:0", "cuda:1"):
        check_device(device)
    with pytest.raises(ValueError, match="got 'cuda:2', accepted here: cpu, cuda:0, cuda:1"):
        check_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"got .cuda., accepted here: cpu$"):
        check_device("cuda")
