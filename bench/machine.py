"""What a measurement was made on: hardware and versions."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from narrowgauge import __version__

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """Hardware and versions. `gpu`: name and compute capability of CUDA device 0, None where torch sees none.

    cores: those this process may run on. threads: those torch uses. cpu_capability: the widest instruction set that
    torch's own kernels use. Versions are None for packages that are not installed.
    """

    narrowgauge: str
    python: str
    torch: str
    triton: str | None
    numpy: str | None
    system: str
    cpu: str
    cpu_capability: str
    cores: int
    threads: int
    gpu: str | None

    def __str__(self) -> str:
        gpu = self.gpu or "no GPU"
        return (
            f"{self.cpu} ({self.cpu_capability}), {self.cores} cores, {self.threads} threads; {gpu}; torch {self.torch}"
        )


def describe_machine() -> Machine:
    """The `Machine` that this process runs on."""
    return Machine(
        narrowgauge=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        triton=package_version("triton"),
        numpy=package_version("numpy"),
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_name(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpu=_gpu_name(),
    )


def check_device(device: torch.device | str) -> None:
    """ValueError unless the operators run on `device` here: a CPU, or a CUDA device that torch sees."""
    known = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    try:
        place = torch.device(device)
    except RuntimeError:  # no such kind of device
        place = torch.device("meta")
    number = place.index or 0
    if place.type not in ("cpu", "cuda") or (place.type == "cuda" and number >= len(known) - 1):
        raise ValueError(f"device: got {str(device)!r}, accepted here: {', '.join(known)}")


def package_version(package: str) -> str | None:
    """The installed version, None where it is not known."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    if _CPUINFO.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return f"{torch.cuda.get_device_name(0)} (sm_{major}{minor})"
