"""What every test shares: where kernels run, threads, seeds, and what uninitialised memory holds.

Without a CUDA device Triton's kernels run in its interpreter. That has to be said before triton is imported,
so it is said here, at the top.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch

HAS_CUDA = torch.cuda.is_available()
if HAS_CUDA:
    # cuBLAS repeats itself to the bit only with a fixed workspace; torch's deterministic mode insists on it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
else:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples in every run; how long one takes says something about the machine, not about the code.
hypothesis.settings.register_profile(
    "narrowgauge",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("narrowgauge")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cuda" if HAS_CUDA else "cpu",
        help="where the `device` fixture puts tensors: cpu, cuda, cuda:1 … (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    device = config.getoption("--device")
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise pytest.UsageError(f"--device: got {device!r}; accepted are cpu, cuda, cuda:N") from error
    if asked.type == "cuda" and not HAS_CUDA:
        raise pytest.UsageError(f"--device: got {device!r}, but torch sees no CUDA device here; accepted is cpu")
    if hasattr(config, "workerinput"):  # one worker a core already; more threads would only fight over them
        torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if HAS_CUDA:
        return
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu:
        config.hook.pytest_deselected(items=needs_gpu)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of --device; by default CUDA where there is one, else the CPU."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def rng() -> np.random.Generator:
    """A numpy generator that starts at the same seed in every test."""
    return np.random.default_rng(20260101)


@pytest.fixture
def poisoned_empty() -> Iterator[None]:
    """Fill what torch.empty and its kin return with NaN (integers: their maximum): a gap in an output shows.

    The fill belongs to torch's deterministic mode, which is on for the test as well.
    """
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    was_filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(was_deterministic, warn_only=only_warned)
    torch.utils.deterministic.fill_uninitialized_memory = was_filled
