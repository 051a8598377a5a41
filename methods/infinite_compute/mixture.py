"""Distillation from samples: a student reads text that a teacher wrote, mixed with the real text.

Paper, §6: the teacher (an ensemble, or one model of the student's own size) writes text unconditionally; a share ``s``
of what the student reads is the teacher's; it trains ``steps / (1 - s)`` steps, so that the real text is read as
often as without a teacher. A mixture is needed: on the teacher's text alone the student is worse than without.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from narrowgauge.train.data import Batch, BatchSource
from narrowgauge.train.generate import generate

BYTES = 256


def sample_windows(
    teacher: nn.Module, first: Sequence[int], *, seq_len: int, generator: torch.Generator, rows: int = 256
) -> list[bytes]:
    """Windows of ``seq_len + 1`` bytes that ``teacher`` writes at temperature 1, one after each byte of ``first``.

    ``rows`` of them are written at a time. Raises ``ValueError`` for a first token or a written one that is no byte.
    """
    if any(not 0 <= token < BYTES for token in first):
        raise ValueError(f"first: expected bytes, 0 … {BYTES - 1}, got {sorted(set(first))[-1]}")
    windows = []
    for start in range(0, len(first), rows):
        prompts = [[token] for token in first[start : start + rows]]
        written = generate(teacher, prompts, max_new_tokens=seq_len, temperature=1.0, eos=None, generator=generator)
        for prompt, row in zip(prompts, written, strict=True):
            if max(row) >= BYTES:
                raise ValueError(f"teacher: expected a model of bytes, it wrote token {max(row)}")
            windows.append(bytes([*prompt, *row]))
    return windows


def student_steps(steps: int, share: float) -> int:
    """How many steps read the real text as often as ``steps`` without a teacher: ``steps / (1 - share)``."""
    if not 0 <= share < 1:
        raise ValueError(f"share: expected a number in [0, 1), got {share!r}")
    return round(steps / (1 - share))


class MixedStream:
    """Batches with rows of two sources, real first: the sizes of their batches are the mixture.

    Validation batches are the real source's. Positions of both are saved and restored.
    """

    def __init__(self, real: BatchSource, written: BatchSource) -> None:
        self.real, self.written = real, written

    def __next__(self) -> Batch:
        real, written = next(self.real), next(self.written)
        if real.keys() != written.keys():
            raise ValueError(f"written: expected batches of {sorted(real)}, got {sorted(written)}")
        return {name: torch.cat((tensor, written[name])) for name, tensor in real.items()}

    def validation(self) -> list[Batch]:
        """The real text's."""
        return self.real.validation()

    def state_dict(self) -> dict[str, Any]:
        """Both positions."""
        return {"real": self.real.state_dict(), "written": self.written.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at saved positions; ``ValueError`` when they are of other batches."""
        self.real.load_state_dict(state["real"])
        self.written.load_state_dict(state["written"])
