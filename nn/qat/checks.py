"""Checks of the numbers that QAT configurations are made of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def check_bits(name: str, got: Any, accepted: Collection[float]) -> None:
    """ValueError unless `got` is one of `accepted`."""
    if isinstance(got, bool) or got not in accepted:
        raise ValueError(f"{name}: got {got!r}, accepted: {', '.join(str(bits) for bits in accepted)}")


def check_choice(name: str, got: Any, accepted: Collection[str]) -> None:
    """ValueError unless `got` is one of `accepted`."""
    if got not in accepted:
        raise ValueError(f"{name}: got {got!r}, accepted: {', '.join(accepted)}")


def check_positive(name: str, got: Any) -> None:
    """ValueError unless `got` is a number above 0."""
    if isinstance(got, bool) or not isinstance(got, int | float) or not got > 0:
        raise ValueError(f"{name}: got {got!r}, accepted: a number above 0")
