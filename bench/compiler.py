"""Whether torch.compile can run here."""

from __future__ import annotations

import shutil

import torch

COMPILERS = ("g++", "c++", "clang++")


def why_not_compiled(wanted: bool, device: torch.device | str) -> str | None:
    """Why a suite has no compiled row on `device`: not `wanted`, or no compiler for the CPU; None where it has one."""
    if not wanted:
        return "left out as asked"
    if torch.device(device).type == "cpu" and not any(shutil.which(name) for name in COMPILERS):
        return f"torch.compile needs a C++ compiler ({', '.join(COMPILERS)}), and none is on the path"
    return None
