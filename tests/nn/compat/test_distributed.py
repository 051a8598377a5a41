"""Converted models under DDP and FSDP2. What the processes do is in tests/support/converted_processes.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from two_processes import run_two


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch is built without gloo")
def test_two_processes(tmp_path: Path) -> None:
    assert run_two("converted_processes.py", tmp_path) > 9
