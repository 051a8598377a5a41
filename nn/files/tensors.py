"""`load_tensors`: the values of a file, without any model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from narrowgauge.formats.model_file import stored_names
from narrowgauge.formats.stored_tensor import StoredTensor
from narrowgauge.nn.files.container import dtype_called, of_the_file, read


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a file by its name in the model, on the CPU; quantised ones dequantised, in their own dtype.

    No model, class, recipe or registered format is needed: the file says how to decode it. Of tied weights each name
    has the same tensor. A weight that was rotated before it was quantised is rotated back; one that was quantised as
    another matrix (of a convolution, of a layer that keeps it transposed) has its own shape again.

    FileNotFoundError where there is no file; ValueError for one that is damaged, of another kind or a later version.
    """
    contents = read(path)
    body = contents.body
    with of_the_file(contents.path):
        names = {entry: stored_names(body["tensors"][entry]) for entry in body["tensors"]}
        parts = {name for used in names.values() for name in used}
        found = {name: tensor for name, tensor in contents.tensors.items() if name not in parts}
        for name, entry in body["tensors"].items():
            stored = {part: contents.tensors[part].numpy() for part in names[name]}
            values = torch.from_numpy(StoredTensor(entry, body["formats"], stored).tensor())
            found[name] = values.to(dtype_called(entry["dtype"]))
        for name, root in body["aliases"].items():
            if root in found:
                found[name] = found[root]
    return found
