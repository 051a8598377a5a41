"""A codec that rounds nothing, and small sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from narrowgauge.bench.optim_quality.sizes import QUICK, Sizes


class Exact:
    """float32 moments and weights."""

    group = 1
    stochastic = False

    def store(self, m: Any, v: Any, seed: int = 0) -> Any:
        return m.copy(), v.copy()

    def load(self, state: Any) -> Any:
        return state

    def store_weight(self, w: Any, seed: int = 0) -> Any:
        return w.copy()

    def load_weight(self, state: Any) -> Any:
        return state


@pytest.fixture
def exact() -> Exact:
    return Exact()


@pytest.fixture
def sizes() -> Sizes:
    return replace(QUICK, elements=1 << 13)
