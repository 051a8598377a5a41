"""Whether a tensor was changed in place since it was saved: autograd's own check, for what a hook has replaced.

Autograd compares version counters only of tensors that it keeps itself. A view that shares the counter but not the
memory tells as much and costs next to nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Version:
    """The state of `tensor` now. `check()` raises RuntimeError once the tensor has been changed in place."""

    def __init__(self, tensor: Tensor) -> None:
        with torch.no_grad():
            self._counter = tensor.detach()
            # Assigning to .data leaves the version counter, which is the tensor's own, in place.
            self._counter.data = tensor.new_empty(0)
        self._expected = tensor._version
        self._shape = tensor.shape

    def check(self) -> None:
        """RuntimeError as autograd raises it."""
        if self._counter._version != self._expected:
            raise modified(self._counter, self._expected, self._shape)


def modified(tensor: Tensor, expected: int, shape: torch.Size | None = None) -> RuntimeError:
    """Autograd's error for a saved tensor that is no longer at the `expected` version."""
    what = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape if shape is None else shape)}"
    return RuntimeError(
        f"one of the variables needed for gradient computation has been modified by an inplace operation: "
        f"{what} is at version {tensor._version}; expected version {expected} instead"
    )
