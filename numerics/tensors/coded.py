"""The quantised tensors of files that narrowgauge wrote, as the values that their codes decode to.

A tensor is the matrix that was quantised, [rows, columns]: of a convolution or a transposed layer the one that its
product sees. Rows are decoded as they are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.model_file import ENTRY, read_description, stored_names
from narrowgauge.formats.stored_tensor import StoredTensor
from narrowgauge.numerics.tensors.named import TensorInfo


@dataclass(frozen=True)
class CodedTensors:
    """entries: of every quantised tensor by its name in the model. formats: how their codes decode. parts: the tensors
    of the file that they consist of."""

    entries: Mapping[str, Mapping[str, Any]]
    formats: Mapping[str, Any]
    parts: frozenset[str]

    def info(self, name: str) -> TensorInfo:
        """Of the matrix of a quantised tensor, in the dtype that it had."""
        entry = self.entries[name]
        rows, _ = entry["matrix"]
        columns = int(np.prod(entry["shape"], dtype=np.int64)) // max(rows, 1)
        return TensorInfo(name, "weight", (rows, columns), entry["dtype"])

    def rows(self, name: str, reader: Any) -> DecodedRows:
        """Its values. reader: the open file."""
        entry = self.entries[name]
        stored = {part: reader.get_tensor(part).numpy() for part in stored_names(entry)}
        return DecodedRows(StoredTensor(entry, self.formats, stored))


@dataclass(frozen=True)
class DecodedRows:
    """Gives values of a matrix when it is indexed by a slice of rows and one of columns."""

    tensor: StoredTensor

    def __getitem__(self, place: tuple[slice, slice]) -> NDArray[np.float32]:
        rows, columns = place
        start, stop, _ = rows.indices(self.tensor.matrix[0])
        return self.tensor.rows(start, stop)[:, columns]


def coded_tensors(file: Path, reader: Any) -> CodedTensors:
    """Those of an open file, none for files that narrowgauge did not write. ValueError for one that is damaged or of a
    later version."""
    metadata: Mapping[str, str] = reader.metadata() or {}
    if ENTRY not in metadata:
        return CodedTensors({}, {}, frozenset())
    present: Collection[str] = reader.keys()
    body = read_description(file, metadata, present)
    try:
        parts = frozenset(part for entry in body["tensors"].values() for part in stored_names(entry))
    except (KeyError, TypeError) as error:
        raise ValueError(f"path: {file}: its description is malformed: {type(error).__name__}: {error}") from error
    return CodedTensors(body["tensors"], body["formats"], parts)
