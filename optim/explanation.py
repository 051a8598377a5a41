"""What `explain` of an optimizer returns: how each parameter group is stored and stepped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_HEADINGS = ("group", "elements", "rule", "m", "v", "master", "bytes/param", "step")


@dataclass(frozen=True)
class GroupRow:
    """One parameter group. first, second: codecs of m and v, "none" for a moment that the rule does not have.
    bytes_per_parameter: of moments (where groups are whole) and residual. runs: how the step runs, on what."""

    index: int
    elements: int
    rule: str
    first: str
    second: str
    master: str
    bytes_per_parameter: float
    runs: str


@dataclass(frozen=True)
class Explanation:
    """Rows in the order of the groups. `str()` is a table, `to_dict()` plain data."""

    optimizer: str
    rows: tuple[GroupRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """{"optimizer": name, "groups": [...]}."""
        return {"optimizer": self.optimizer, "groups": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        table = [_HEADINGS]
        for row in self.rows:
            size = f"{row.bytes_per_parameter:.4g}"
            middle = (row.rule, row.first, row.second, row.master)
            table.append((str(row.index), str(row.elements), *middle, size, row.runs))
        widths = [max(len(line[column]) for line in table) for column in range(len(_HEADINGS))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table)
        return "\n".join([self.optimizer, *(line.rstrip() for line in lines)])
