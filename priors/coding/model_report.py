"""What the tensors of a compressed model take, and what they took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from narrowgauge.priors.coding.bitstream import Bytes
from narrowgauge.priors.coding.record import Coded, whole
from narrowgauge.priors.coding.weights import dtype_called

HEADS = ("<tensor", "<coded as", "parameters", "fixed bits", "entropy", "code bits", "stored bits", "bytes", "of dtype")
_NOTHING: Bytes = np.zeros(0, dtype=np.uint8)


@dataclass(frozen=True)
class TensorReport:
    """One tensor. kind: step, scheme, integers or raw; coding: its coder with its parameter, "" if raw. parameters: how
    many. fixed: bits of a code of one length for the symbols that occur, ceil(log2(distinct)); entropy: of the symbols;
    code: average bits of a codeword; these three None if raw. nbytes: stored, with tables and scales. original: bytes
    in the dtype of the tensor."""

    name: str
    kind: str
    coding: str
    parameters: int
    fixed: int | None
    entropy: float | None
    code: float | None
    nbytes: int
    original: int

    @property
    def stored(self) -> float:
        """All stored bits for each parameter."""
        return 8.0 * self.nbytes / self.parameters if self.parameters else 0.0

    def cells(self) -> tuple[str, ...]:
        """The row of the table, under `HEADS`."""
        numbers = ("", "", "") if self.code is None else (str(self.fixed), f"{self.entropy:.3f}", f"{self.code:.3f}")
        return (
            self.name, f"{self.kind} {self.coding}".strip(), f"{self.parameters:,}", *numbers, f"{self.stored:.3f}",
            f"{self.nbytes:,}", _share(self.nbytes, self.original),
        )  # fmt: skip


@dataclass(frozen=True)
class CompressionReport:
    """A file. nbytes: of all of it, the description included."""

    rows: tuple[TensorReport, ...]
    nbytes: int

    @property
    def parameters(self) -> int:
        """In all."""
        return sum(row.parameters for row in self.rows)

    @property
    def original(self) -> int:
        """Bytes in the dtypes of the tensors."""
        return sum(row.original for row in self.rows)

    def totals(self) -> str:
        """One line."""
        bits = 8.0 * self.nbytes / self.parameters if self.parameters else 0.0
        return (
            f"{len(self.rows)} tensors, {self.parameters:,} parameters: {self.nbytes:,} bytes, {bits:.3f} bits per "
            f"parameter, {_share(self.nbytes, self.original)} of {self.original:,} bytes"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        rows = [asdict(row) | {"stored": row.stored} for row in self.rows]
        return {"tensors": rows, "nbytes": self.nbytes, "parameters": self.parameters, "original": self.original}


def _share(part: int, whole_size: int) -> str:
    return f"{100 * part / whole_size:.1f} %" if whole_size else "-"


def report_of(entries: Mapping[str, Any], nbytes: int) -> CompressionReport:
    """The report of a description."""
    return CompressionReport(tuple(_row(name, entry) for name, entry in entries.items()), nbytes)


def _row(name: str, entry: Mapping[str, Any]) -> TensorReport:
    parts = entry["parts"]
    count = math.prod(entry["shape"])
    stored = sum(whole(part, "nbytes") for part in parts.values())
    original = count * dtype_called(entry["dtype"]).itemsize
    if "code" not in parts["values"]:
        return TensorReport(name, entry["kind"], "", count, None, None, None, stored, original)
    code = Coded.from_dict(parts["values"]["code"], _NOTHING)
    fixed = (code.distinct - 1).bit_length() if code.distinct else 0
    order = code.parameters.get("order")
    coding = code.coder if order is None else f"{code.coder} {order}"
    detail = {"step": f"2^-{entry.get('step_bits')} ", "scheme": f"{entry.get('scheme')} "}.get(entry["kind"], "")
    return TensorReport(
        name, entry["kind"], detail + coding, count, fixed, code.entropy, code.bits_per_symbol, stored, original
    )
