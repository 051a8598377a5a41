"""`describe`: what is in a file, tensor by tensor, and what it would take in high precision; no value is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from narrowgauge.formats.model_file import stored_names
from narrowgauge.nn.files.container import DTYPES, dtype_called, dtype_name, of_the_file, opened


@dataclass(frozen=True)
class TensorRow:
    """One tensor. dtype: of the values; scheme: empty for one that is stored as it is. bytes: stored, 0 where it is
    tied to another (`tied_to`); bytes_before: in its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scheme: str
    bytes: int
    bytes_before: int
    tied_to: str = ""

    @property
    def bits_per_value(self) -> float | None:
        """Stored bits over values; None where there are no values, or no bits of its own."""
        count = prod(self.shape)
        return 8 * self.bytes / count if count and not self.tied_to else None


@dataclass(frozen=True)
class Description:
    """Rows by name. `str()` is a table, `to_dict()` plain data. file_bytes: of the whole file."""

    path: Path
    version: int
    rows: tuple[TensorRow, ...]
    recipes: tuple[str, ...]
    modules: int
    file_bytes: int

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(row.bytes for row in self.rows)

    @property
    def bytes_before(self) -> int:
        """Of all tensors, in the dtypes of their values."""
        return sum(row.bytes_before for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """{"path", "version", "tensors": [...], "recipes", "modules", "bytes", "bytes_before", "file_bytes"}."""
        rows = [asdict(row) | {"bits_per_value": row.bits_per_value} for row in self.rows]
        return {
            "path": str(self.path),
            "version": self.version,
            "tensors": rows,
            "recipes": list(self.recipes),
            "modules": self.modules,
            "bytes": self.bytes,
            "bytes_before": self.bytes_before,
            "file_bytes": self.file_bytes,
        }

    def cells(self) -> list[tuple[str, str, str, str, str, str]]:
        """Name, scheme, shape, dtype, bytes and bits per value of every row, as text."""
        return [_cells(row) for row in self.rows]

    def totals(self) -> str:
        """Sizes before and after, in a line."""
        ratio = f" ({self.bytes_before / self.bytes:.2f} times smaller)" if 0 < self.bytes < self.bytes_before else ""
        recipes = f"; recipes: {', '.join(self.recipes)}" if self.recipes else ""
        return (
            f"{len(self.rows)} tensors, {self.modules} quantised modules{recipes}; {self.bytes_before:,} bytes in "
            f"their own dtypes, {self.bytes:,} stored{ratio}, {self.file_bytes:,} in the file"
        )

    def __str__(self) -> str:
        table = [HEADS, *self.cells()]
        widths = [max(len(row[i]) for row in table) for i in range(len(HEADS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
        return "\n".join([*(line.rstrip() for line in lines), "", self.totals()])


HEADS = ("tensor", "scheme", "shape", "dtype", "bytes", "bits per value")


def _cells(row: TensorRow) -> tuple[str, str, str, str, str, str]:
    bits = "-" if row.bits_per_value is None else f"{row.bits_per_value:.4g}"
    size = f"tied to {row.tied_to}" if row.tied_to else f"{row.bytes:,}"
    return row.name, row.scheme or "-", "x".join(map(str, row.shape)) or "scalar", row.dtype, size, bits


def describe(path: str | Path) -> Description:
    """What the file at `path` holds. FileNotFoundError where there is none; ValueError for one that is no safetensors
    file, cut off, of another kind or a later version. Values are not read, so damage among them is not noticed."""
    with opened(path) as (file, body, reader), of_the_file(file):
        sizes = {name: _size(reader.get_slice(name)) for name in body["sha256"]}
        rows, counted = [], set()
        for name, entry in body["tensors"].items():
            parts = [part for part in stored_names(entry) if part not in counted]
            counted.update(parts)
            shape, dtype = tuple(entry["shape"]), entry["dtype"]
            before = prod(shape) * dtype_called(dtype).itemsize if parts else 0
            own = sum(sizes[part][2] for part in parts)
            tied = "" if parts else _holder(body["tensors"], entry["codes"])
            rows.append(TensorRow(name, shape, dtype, entry["scheme"], own, before, tied))
        for name, (shape, dtype, count) in sizes.items():
            if name not in counted:
                rows.append(TensorRow(name, shape, dtype, "", count, count))
        for name, root in body["aliases"].items():
            if root not in counted:
                rows.append(TensorRow(name, sizes[root][0], sizes[root][1], "", 0, 0, root))
        return Description(
            file, body["version"], tuple(sorted(rows, key=lambda row: _natural(row.name))), tuple(body["recipes"]),
            len(body["modules"]), file.stat().st_size,
        )  # fmt: skip


def _size(header: Any) -> tuple[tuple[int, ...], str, int]:
    """(shape, dtype, bytes) of a stored tensor."""
    dtype, shape = DTYPES[header.get_dtype()], tuple(header.get_shape())
    return shape, dtype_name(dtype), prod(shape) * dtype.itemsize


def _holder(entries: dict[str, Any], codes: str) -> str:
    return next(name for name, entry in entries.items() if entry["codes"] == codes)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts `layers.10` behind `layers.9`."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split(".")]
