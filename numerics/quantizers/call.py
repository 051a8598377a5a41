"""The function under test: calls it with arrays or tensors of any layout, reads and judges what it returns, remembers
it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.numerics.quantizers.contract import judge
from narrowgauge.numerics.quantizers.read import Reading, read
from narrowgauge.numerics.quantizers.terms import Terms, Verdict

Matrix = NDArray[np.floating]

DTYPES = ("float32", "float64", "float16", "bfloat16")
LAYOUTS = ("contiguous", "transposed", "every second column", "every second row", "offset")
REMEMBERED = 1 << 19
"""Elements of passed inputs that are kept for the diagnosis; failed ones always are."""


class CallFailed(Exception):
    """The function raised, returned something that cannot be read, or wrote to its input."""


@dataclass(frozen=True, eq=False)
class Observation:
    """One call: the input as float32 (or float64) matrix, the input of the call before it, the result and the
    verdict."""

    property: str
    x: Matrix
    before: Matrix | None
    reading: Reading
    verdict: Verdict


@dataclass(eq=False)
class Subject:
    """A quantizer with the terms it is held to. `seed` is passed on as second argument under stochastic schemes."""

    fn: Callable[..., Any]
    terms: Terms
    as_tensor: bool = False
    device: Any = None
    mode: str = "auto"
    calls: int = 0
    before: Matrix | None = None
    observations: list[Observation] = field(default_factory=list)
    _room: int = REMEMBERED

    def call(self, x: Matrix, *, dtype: str = "float32", layout: str = "contiguous", seed: int = 0) -> Reading:
        """What the function returns for x [rows, cols], whose values `dtype` holds. CallFailed says what went wrong."""
        argument = self._argument(x, dtype, layout)
        kept = _copy(argument)
        self.calls += 1
        try:
            with np.errstate(all="ignore"):
                result = self.fn(argument, seed) if self.terms.scheme.stochastic else self.fn(argument)
        except Exception as error:  # anything that a stranger's quantiser may raise
            raise CallFailed(f"raised {type(error).__name__}: {error}") from error
        if not _same(argument, kept):
            raise CallFailed("wrote to its input")
        try:
            with np.errstate(all="ignore"):
                return read(result, self.terms.scheme, (x.shape[0], x.shape[1]), self.mode)
        except (TypeError, ValueError) as error:
            raise CallFailed(f"returned what cannot be read: {error}") from error
        finally:
            self.before = x

    def look(self, name: str, x: Matrix, *, dtype: str = "float32", seed: int = 0) -> Observation:
        """Calls and judges."""
        before = self.before
        reading = self.call(x, dtype=dtype, seed=seed)
        return Observation(name, x, before, reading, judge(self.terms, x, reading, seed))

    def observe(self, name: str, x: Matrix, *, dtype: str = "float32", seed: int = 0) -> Observation:
        """Calls, judges and remembers."""
        seen = self.look(name, x, dtype=dtype, seed=seed)
        if not seen.verdict.ok or x.size <= self._room:
            self._room -= x.size if seen.verdict.ok else 0
            self.observations.append(seen)
        return seen

    def _argument(self, x: Matrix, dtype: str, layout: str) -> Any:
        array = _laid_out(x, layout)
        if not self.as_tensor:
            if dtype == "bfloat16":
                raise ValueError("dtypes: 'bfloat16' needs as_tensor=True, numpy has no such type")
            return array if array.dtype == np.dtype(dtype) else array.astype(dtype)
        import torch

        tensor = torch.from_numpy(array)
        if self.device is not None:
            tensor = _same_strides(tensor.to(self.device), tensor)
        wanted = getattr(torch, dtype)
        return tensor if tensor.dtype == wanted else tensor.to(wanted)


def _same_strides(moved: Any, original: Any) -> Any:
    """A copy to another device may have become contiguous: laid out once more."""
    if moved.stride() == original.stride():
        return moved
    span = 1 + sum((n - 1) * step for n, step in zip(original.shape, original.stride(), strict=True))
    view = moved.new_empty(span).as_strided(original.shape, original.stride())
    view.copy_(moved)
    return view


def _laid_out(x: Matrix, layout: str) -> Matrix:
    """The values of x in fresh memory of the layout."""
    rows, cols = x.shape
    if layout == "transposed":
        return np.array(x.T, order="C", copy=True).T
    filler = np.array(np.nan, dtype=x.dtype)
    if layout == "every second column":
        wide = np.full((rows, 2 * cols), filler)
        wide[:, ::2] = x
        return wide[:, ::2]
    if layout == "every second row":
        tall = np.full((2 * rows, cols), filler)
        tall[::2] = x
        return tall[::2]
    if layout == "offset":
        buffer = np.full(rows * cols + 1, filler)
        buffer[1:] = x.reshape(-1)
        return buffer[1:].reshape(rows, cols)
    return np.array(x, order="C", copy=True)


def _copy(x: Any) -> Any:
    return x.copy() if isinstance(x, np.ndarray) else x.clone()


def _same(x: Any, kept: Any) -> bool:
    if isinstance(x, np.ndarray):
        return bool(np.array_equal(x, kept, equal_nan=True))
    return bool(((x == kept) | ((x != x) & (kept != kept))).all())
