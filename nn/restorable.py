"""How a module takes part in files. This is the one place that says so.

Of a module that is as its model's class makes it, files hold the tensors. Two kinds of modules need more, so that a
model of the original classes can be made like the one that was saved:

**Layers that train** are those that `convert` makes (narrowgauge.nn.layer_kinds): they have a `recipe` and a `seed`,
and stay the objects they are. Nothing needs to be done for them; `narrowgauge.nn.inference.forms` has, for `export`,
the registered layers that hold as codes what their forward pass makes of the weights.

**Layers of another class** are registered, `register(cls)`, and have one property:

    quantization -> dict[str, Any]    numbers, text, booleans, None, lists and dictionaries of them: with it,
                                      cls(**quantization) is a module like this one, with parameters and buffers of the
                                      same names, shapes and dtypes

What their values mean is told by a second property, of those which hold codes:

    encoded -> dict[str, Encoded]     name of a tensor (`weight`) → its scheme and the buffers that it consists of

A class that wraps another layer, or shares its parameters, has a class method from_place(place, **quantization) instead
of that constructor; place is the module in whose place it goes, possibly one of its own class. A registered layer may
have `to_inference()`, which gives the registered layer that holds codes of it. Modules inside of registered ones are
treated like any others. A module with a `recipe` or a `quantization` that is neither is refused, not saved in
part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from narrowgauge.formats import Scheme
from narrowgauge.formats.tiles import rows_cols

REGISTERED: dict[str, type[nn.Module]] = {}
"""Classes by the name that files call them."""


@dataclass(frozen=True)
class Encoded:
    """A quantised tensor. shape, dtype: of the original. parts: name in `narrowgauge.formats.model_file.PARTS` →
    tensor; codes below 8 bits are packed along the last axis.

    matrix: rows and columns of the codes where they are not all axes but the last, and the last: of a convolution, of
    one that is `transposed`, of a rotation that filled up the columns. groups: so many equal blocks of rows were
    quantised each by itself; their scales stand one after another, outer has one number for each. gain: by how much
    the codes' values are too large. rotation: block of a Hadamard rotation along the columns, 0 for none; signs: its
    signs, if it has any.
    """

    scheme: Scheme
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: Mapping[str, Tensor]
    rotation: int = 0
    matrix: tuple[int, int] | None = None
    transposed: bool = False
    groups: int = 1
    gain: float = 1.0
    signs: Sequence[float] | None = None

    @property
    def rows_and_columns(self) -> tuple[int, int]:
        """Of the codes."""
        return rows_cols(self.shape) if self.matrix is None else self.matrix


def register(cls: type[nn.Module]) -> type[nn.Module]:
    """Makes a class known to files under its name; use it as a decorator. See the module for what it needs.

    TypeError without `quantization`, ValueError where another class has that name.
    """
    if not isinstance(getattr(cls, "quantization", None), property):
        raise TypeError(f"cls: {cls.__name__} has no property `quantization`, which gives the arguments for its like")
    if REGISTERED.setdefault(cls.__name__, cls) is not cls:
        raise ValueError(f"cls: {cls.__name__!r} is registered for another class")
    return cls
