"""How much memory the run uses."""

import os
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")


def memory_bytes(device: torch.device) -> int | None:
    """CUDA: peak of allocated bytes since its reset. CPU: resident bytes, ``None`` off Linux."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if not _STATM.exists():
        return None
    resident_pages = int(_STATM.read_text().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
