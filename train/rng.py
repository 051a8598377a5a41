"""Random numbers of a run: each step is seeded from (seed, step), the caller's generators are left alone."""

import contextlib
import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that differs whenever one of the parts does (SHA-256 of their text)."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@contextlib.contextmanager
def isolated(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, torch's generators (CPU and ``device``) start at ``seed``; afterwards they are as before."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # Not torch.manual_seed: that would also seed the devices that were not forked.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def global_state(device: torch.device) -> dict[str, Any]:
    """States of Python's, numpy's and torch's global generators (a data source may draw from them)."""
    version, words, gauss = random.getstate()
    return {
        "python": (version, np.array(words, dtype=np.int64), gauss),
        "numpy": np.random.get_state(),  # noqa: NPY002 - the global generator is what is saved
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_global_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Inverse of :func:`global_state`; a CUDA state is taken only by a run on CUDA."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
