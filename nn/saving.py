"""Whether a forward pass runs under hooks that compress what autograd saves.

Under such hooks an operation that would save codes of its input saves the input: several that read the same one then
share one compressed copy, and an input that can be computed again costs nothing.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

import torch

_COMPRESSED: ContextVar[bool] = ContextVar("saved_tensors_are_compressed", default=False)


def saved_are_compressed() -> bool:
    """Whether hooks compress the tensors that are saved now; never while torch.compile traces, which they refuse."""
    return not torch.compiler.is_compiling() and _COMPRESSED.get()


def begin_compressed() -> Token[bool]:
    """Says so from here on, until `end_compressed` of what is returned."""
    return _COMPRESSED.set(True)


def end_compressed(token: Token[bool]) -> None:
    """Back to how it was at `begin_compressed`."""
    _COMPRESSED.reset(token)
