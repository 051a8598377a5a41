"""Results as strict JSON: what every reader can read, so without NaN and infinities."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """`value` as JSON types: dataclasses become objects, paths text, floats that are not finite None."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def dumps(value: Any) -> str:
    """The JSON text of `plain(value)`, indented."""
    return json.dumps(plain(value), indent=1, allow_nan=False)
