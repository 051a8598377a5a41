"""What the records of prefix codes have in common: the lengths of the lanes beside the code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.priors.coding.bitstream import Bytes
from narrowgauge.priors.coding.prefix import Chunks, Escape, Table, lane_steps, read, write
from narrowgauge.priors.coding.record import Coded, Sections, named_type, narrowest, type_name, whole

LENGTHS = ("<u2", "<u4")


def write_lanes(count: int, bits: int, chunks: Chunks) -> tuple[NDArray[Any], Bytes, dict[str, Any]]:
    """(lengths of the lanes, code, parameters) of `count` symbols whose code has `bits` bits."""
    steps = lane_steps(bits, count)
    lanes, code = write(count, steps, chunks)
    lengths = narrowest(lanes, LENGTHS)
    return lengths, code, {"steps": steps, "lanes": type_name(lengths)}


def read_lanes(coded: Coded, sections: Sections, table: Table, escape: Escape | None = None) -> NDArray[Any]:
    """The symbols of a code whose tables are cut from `sections` already. ValueError for one that is damaged."""
    steps = whole(coded.parameters, "steps", 64, 8192)
    if steps & (steps - 1):
        raise ValueError(f"steps: got {steps}, accepted: powers of two")
    dtype = named_type(coded.parameters, "lanes", LENGTHS)
    lanes = sections.take(dtype, -(-coded.count // steps)).astype(np.int64)
    if int(lanes.sum()) != coded.bits:
        raise ValueError(f"bits: the lanes have {lanes.sum()}, the record says {coded.bits}")
    return read(sections.rest(), lanes, coded.count, steps, table, escape)
