"""Results as strict JSON: what every reader can read, so without NaN and infinities."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


def plain(value: Any, not_finite: Callable[[float], Any] = lambda value: None) -> Any:
    """`value` as JSON types: dataclasses become objects, paths text, floats that are not finite what `not_finite`
    makes of them."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), not_finite)
    if isinstance(value, float):
        return value if math.isfinite(value) else not_finite(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, not_finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, not_finite) for item in value]
    return str(value) if isinstance(value, Path) else value


def dumps(value: Any) -> str:
    """The JSON text of `plain(value)`, indented."""
    return json.dumps(plain(value), indent=1, allow_nan=False)
