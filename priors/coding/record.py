"""What a coder makes of an array: a few numbers as JSON, and bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from narrowgauge.priors.coding.alphabet import IntArray
from narrowgauge.priors.coding.bitstream import Bytes

DTYPES = ("|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8")
"""Types of symbols and of tables, by numpy's names."""
SIGNED = DTYPES[0::2]


@dataclass(frozen=True)
class Coded:
    """An array of integers as a bitstream.

    coder: its name. dtype: numpy's name of the symbols' type. count: symbols. distinct: different ones. entropy: of the
    symbols, bits each. bits: of the code itself. parameters: what else the coder has to know, JSON. payload: uint8,
    tables first, then the code; `payload.nbytes` is all that has to be stored but these few numbers.
    """

    coder: str
    dtype: str
    count: int
    distinct: int
    entropy: float
    bits: int
    parameters: dict[str, Any]
    payload: Bytes = field(repr=False)

    @property
    def bits_per_symbol(self) -> float:
        """Average length of a codeword; 0 where there are no symbols."""
        return self.bits / self.count if self.count else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything but the payload, as JSON."""
        names = ("coder", "dtype", "count", "distinct", "entropy", "bits", "parameters")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, entry: Any, payload: Bytes) -> Self:
        """What `to_dict` gave. ValueError for anything else."""
        if not isinstance(entry, dict):
            raise ValueError(f"expected an object that describes a code, got {entry!r:.80}")
        coder, dtype, parameters = entry.get("coder"), entry.get("dtype"), entry.get("parameters")
        if not isinstance(coder, str) or not isinstance(parameters, dict):
            raise ValueError(f"coder: got {coder!r:.80} with the parameters {parameters!r:.80}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype: got {dtype!r:.80}, accepted: {', '.join(DTYPES)}")
        entropy = entry.get("entropy")
        if isinstance(entropy, bool) or not isinstance(entropy, int | float):
            raise ValueError(f"entropy: got {entropy!r:.80}, accepted: a number")
        count, distinct, bits = (whole(entry, name) for name in ("count", "distinct", "bits"))
        if distinct > count or (count > 0) != (distinct > 0):
            raise ValueError(f"distinct: got {distinct} distinct symbols among {count}")
        return cls(coder, dtype, count, distinct, float(entropy), bits, parameters, payload)


def whole(entry: dict[str, Any], name: str, low: int = 0, high: int = (1 << 63) - 1) -> int:
    """An integer of a description. ValueError where it is missing, of another type, or not in low … high."""
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}: got {value!r:.80}, accepted: an integer from {low} to {high}")
    return value


def named_type(entry: dict[str, Any], name: str, accepted: tuple[str, ...]) -> np.dtype[Any]:
    """A type of a description. ValueError for one that is not accepted."""
    value = entry.get(name)
    if value not in accepted:
        raise ValueError(f"{name}: got {value!r:.80}, accepted: {', '.join(accepted)}")
    return np.dtype(value)


def type_name(array: NDArray[Any]) -> str:
    """The little-endian name of an array's type."""
    return array.dtype.newbyteorder("<").str


def narrowest(values: IntArray, types: tuple[str, ...]) -> NDArray[Any]:
    """The same integers in the first of the types that holds them all."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for name in types:
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return values.astype(name)
    raise ValueError(f"values: {low} to {high} fit none of {', '.join(types)}")


def payload_of(*parts: NDArray[Any]) -> Bytes:
    """The bytes of arrays one after the other."""
    return np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts])


class Sections:
    """Cuts a payload into arrays, from the beginning."""

    def __init__(self, payload: Bytes) -> None:
        self._rest = np.asarray(payload, dtype=np.uint8).reshape(-1)

    def take(self, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        """The next `count` numbers. ValueError where the payload ends before them."""
        if count * dtype.itemsize > self._rest.size:
            raise ValueError(f"the payload ends too early: {self._rest.size} bytes for {count} numbers of {dtype}")
        part, self._rest = self._rest[: count * dtype.itemsize], self._rest[count * dtype.itemsize :]
        return np.frombuffer(part.tobytes(), dtype=dtype).astype(dtype.newbyteorder("="))

    def rest(self) -> Bytes:
        """What is left."""
        return self._rest


def checked_values(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A table of symbols in their own type. ValueError where that does not hold them or one is there twice."""
    limits = np.iinfo(dtype)
    if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise ValueError(f"the table of symbols has {values.min()} to {values.max()}, which {dtype} does not hold")
    if np.unique(values).size != values.size:
        raise ValueError("the table of symbols has one of them twice")
    return values.astype(dtype)
