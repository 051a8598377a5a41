"""How much memory a call needs on top of what was there: exactly, from the allocator's own events."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig


def peak_bytes(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes of torch's allocator that `call` holds at once, beyond those before it.

    Every allocation of the calling thread counts, those within operators and compiled code included. On CUDA it is the
    allocator's peak, by whole blocks of 512 bytes.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # torch.profiler records the same events, and writes two lines to stderr each time.
    config = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    _enable_profiler_legacy(config)
    try:
        call()
    finally:
        events = _disable_profiler_legacy()
    held = peak = 0
    for event in (event for thread in events for event in thread):
        if str(event.kind()) == "memory_alloc":
            held += event.cpu_memory_usage()
            peak = max(peak, held)
    return peak
