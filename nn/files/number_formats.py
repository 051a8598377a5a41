"""Formats in a file: the value of every code, and how to make the format where its name is unknown.

    name → {"bits": 4, "values": [of code 0, 1, …], "made": {"CodebookFormat": {…}}}

"values" has what decodes, for everybody; infinities and NaN are the texts "inf", "-inf" and "nan". Block formats have
no values but those of their element and their scale format, which come before them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from narrowgauge.formats import Format, get
from narrowgauge.formats.registry import intern
from narrowgauge.nn.files.data import AnyFormat, from_data, record_data

LISTED_BITS = 10
"""Widest formats that are listed: those that kernels decode, and scales."""


def add_format(section: dict[str, Any], fmt: AnyFormat) -> None:
    """Adds a format, after those that it is made of. ValueError where another one of that name is there already."""
    made = record_data(fmt, lambda part: add_format(section, part))
    if fmt.name in section:
        if section[fmt.name]["made"] != made:
            raise ValueError(f"format: two different ones are called {fmt.name!r}; give one of them another name")
        return
    entry: dict[str, Any] = {"bits": fmt.bits, "made": made}
    if isinstance(fmt, Format) and fmt.bits <= LISTED_BITS:
        entry["values"] = [float(v) if math.isfinite(v) else repr(float(v)) for v in fmt.values()]
    section[fmt.name] = entry


def know_formats(section: Mapping[str, Any]) -> None:
    """Makes the names of a file's formats mean those formats. ValueError where a name means another one here, and for
    formats of classes that this process does not have."""
    found: dict[str, AnyFormat] = {}
    for name, entry in section.items():
        try:
            fmt = from_data(entry["made"], AnyFormat, found.__getitem__)
        except ValueError as error:
            raise ValueError(f"format {name!r}: {error}; import what defines it first") from error
        if fmt.name != name:
            raise ValueError(f"format {name!r}: is described as {fmt.name!r}")
        intern(fmt)
        # The one that is known, so that equal formats are one object.
        found[name] = get(name)
