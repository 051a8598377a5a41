"""The table of what one forward pass saved for backward: by whom it was made, who reads it, how it is kept, in how many
bytes. Every piece of memory counts once; the model's own parameters and buffers do not count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

PLAIN_TENSORS = (Tensor, nn.Parameter)
"""What has memory of its own; subclasses may be made of several tensors."""


@dataclass(frozen=True)
class SavedRow:
    """tensors: how many saved tensors are of this kind. bytes_before: of the memory that they would have kept;
    bytes_kept: of what is kept for them."""

    made_by: str
    read_by: str
    kept: str
    tensors: int
    bytes_before: int
    bytes_kept: int


@dataclass(frozen=True)
class SavedReport:
    """Rows in the order of the forward pass. `str()` is a table, `to_dict()` plain data."""

    rows: tuple[SavedRow, ...] = ()

    @property
    def bytes_kept(self) -> int:
        """Bytes that the forward pass keeps for its backward."""
        return sum(row.bytes_kept for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """{"rows": [...], "bytes_kept": bytes}."""
        return {"rows": [asdict(row) for row in self.rows], "bytes_kept": self.bytes_kept}

    def __str__(self) -> str:
        table = [("made by", "read by", "kept", "tensors", "bytes before", "bytes kept")]
        for row in self.rows:
            numbers = (str(row.tensors), f"{row.bytes_before:,}", f"{row.bytes_kept:,}")
            table.append((row.made_by, row.read_by, row.kept, *numbers))
        table.append(("all", "", "", str(sum(row.tensors for row in self.rows)), "", f"{self.bytes_kept:,}"))
        widths = [max(len(line[column]) for line in table) for column in range(6)]
        lines = (
            "  ".join(c.ljust(w) if n < 3 else c.rjust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in table
        )
        return "\n".join(line.rstrip() for line in lines)


class Ledger:
    """Counts bytes of memory, each piece once. Pieces are pinned by weak references: an address is not used again."""

    def __init__(self, owned: Iterable[Tensor]) -> None:
        plain = (tensor for tensor in owned if type(tensor) in PLAIN_TENSORS)
        self._owned = {tensor.untyped_storage()._cdata for tensor in plain}
        self._before: dict[int, StorageWeakRef] = {}
        self._kept: dict[int, StorageWeakRef] = {}
        self._rows: dict[tuple[str, str, str], list[int]] = {}

    def owns(self, tensor: Tensor) -> bool:
        """Whether the memory is that of one of the owned tensors."""
        return tensor.untyped_storage()._cdata in self._owned

    def enter(self, made_by: str, read_by: str, kept: str, before: Tensor, after: Iterable[Tensor]) -> None:
        """Counts one saved tensor: `before`, and what is kept in its place."""
        row = self._rows.setdefault((made_by, read_by, kept), [0, 0, 0])
        row[0] += 1
        row[1] += self._new_bytes(before, self._before)
        row[2] += sum(self._new_bytes(tensor, self._kept) for tensor in after)

    def _new_bytes(self, tensor: Tensor, seen: dict[int, StorageWeakRef]) -> int:
        storage = tensor.untyped_storage()
        if storage._cdata in seen or storage._cdata in self._owned:
            return 0
        seen[storage._cdata] = StorageWeakRef(storage)
        return storage.nbytes()

    def report(self) -> SavedReport:
        """The table so far."""
        return SavedReport(tuple(SavedRow(*names, *counts) for names, counts in self._rows.items()))
