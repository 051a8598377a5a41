"""Registers that a compiler has to be told it may take.

For sm_100, left to itself, it keeps some kernels at 72 or 80 registers of a thread and spills one for that; told that
128 are allowed, it spills none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from narrowgauge.kernels.op import CompileCase

ROOMY = ("sm_100", "sm_103")
REGISTERS = 128


def register_room(target: str) -> dict[str, int]:
    """Launch options, for kernels that would spill without them."""
    return {"maxnreg": REGISTERS} if target in ROOMY else {}


def with_room(case: CompileCase) -> Iterator[CompileCase]:
    """The case, with these options for the targets that need them."""
    others = tuple(target for target in case.targets if target not in ROOMY)
    yield replace(case, targets=others)
    for target in case.targets:
        if target in ROOMY:
            yield replace(case, targets=(target,), options=(*case.options, *register_room(target).items()))
