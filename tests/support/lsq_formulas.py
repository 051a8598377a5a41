"""LSQ's quantiser and its gradients in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np


def lsq_reference(v: Any, s: Any, low: int, high: int, beta: float = 0.0) -> tuple[Any, Any, Any, Any]:
    """(values, ∂/∂v, ∂/∂s, ∂/∂β) elementwise in float64."""
    y = (v - beta) / s
    codes = np.rint(np.clip(y, low, high))
    inside = (y > low) & (y < high)
    slope = np.where(inside, np.rint(y) - y, np.clip(y, low, high))
    return codes * s + beta, inside, slope, ~inside
