"""Narrow accumulators: a GEMM of float32 values whose sums are kept as a published machine keeps them.

    name[/chunk][+exact][+sr][+outer=format]

| text                 | what it does                                                                                |
|----------------------|---------------------------------------------------------------------------------------------|
| `dlfloat16`          | each of the K sums is rounded to 1-6-9; likewise fp16, bf16 or any signed minifloat         |
| `dlfloat16/64`       | chunks of 64 products, each sum rounded; then the sum over chunks, rounded at each step     |
|                      | (IBM FP8-2018, arXiv 1812.08011, chunk-based accumulation)                                  |
| `dlfloat16/64+exact` | inside a chunk float32, one rounding of each chunk's sum; then as above: quick, for training |
| `…+outer=fp32`       | the sum over chunks is kept in another format                                               |
| `…+sr`               | every rounding is stochastic                                                                |
| `fp32`, `fp32/128`   | float32 in the order of the device's own GEMM; chunks are added one after the other         |
| `hopper`             | FP8 tensor cores of Hopper: 32 products and the sum aligned and cut to 14 bits at a time    |
| `hopper/128`         | the same, each chunk's sum moved to float32 (DeepSeek-V3, arXiv 2412.19437, section 3.3.2)  |
| `int32`, `int32/L`   | integers, exact modulo 2^32; every L products moved to float32 (DFP-16, arXiv 1802.00930)   |

Without `+exact` a sum is what a machine with that accumulator gives for operands of up to 5 significant bits (all 8-bit
floats); see `kernels/narrow_sums.py` for wider ones. Overflow gives an infinity, NaN in formats without one.

`torch.ops.narrowgauge.accumulate(a, b, text, seed, offset) -> Tensor`: one call to compilers, never looked into.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from narrowgauge.formats import FloatFormat, get
from narrowgauge.kernels._round_torch import grid_of
from narrowgauge.kernels.narrow_sums import (
    HOPPER_BITS,
    HOPPER_GROUP,
    HOPPER_SMALLEST,
    added,
    hopper,
    is_float32,
    stepwise,
    whole,
    wrapped_integers,
)
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.numerics.statistics import accumulation_bound

FLOAT32_ROUNDOFF = 2.0**-24
FLOAT32_SMALLEST = 2.0**-149
EXACT_INTEGERS = 2.0**53
SUMS_AT_ONCE = 1 << 22
"""Sums of chunks that are kept at a time, which bounds the memory."""
SPECIAL = ("hopper", "int32")
_TEXT = re.compile(r"(?P<name>[^/+]+)(?:/(?P<chunk>\d+))?(?P<options>(?:\+[^+]+)*)")
_FORM = "'format[/chunk][+exact][+sr][+outer=format]', for example 'dlfloat16/64'"


@dataclass(frozen=True, kw_only=True)
class Accumulator:
    """name: a minifloat, fp32, hopper or int32. chunk: products of a partial sum, None for all. exact: float32 inside
    a chunk. stochastic: how sums are rounded. outer: the format of the sum over chunks, None for `name`'s own (float32
    of hopper and int32)."""

    name: str
    chunk: int | None = None
    exact: bool = False
    stochastic: bool = False
    outer: str | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk: got {self.chunk}, accepted: a number of products >= 1, or none")
        fmt = None if self.name in SPECIAL else _accumulator_format(self.name)
        plain = fmt is None or is_float32(fmt)
        if plain and (self.exact or self.stochastic or self.outer):
            raise ValueError(f"accumulator: {self.name} takes a chunk and no options, got '{self}'")
        if self.outer is not None:
            _accumulator_format(self.outer)
            if self.chunk is None:
                raise ValueError(f"outer: there are no chunks to add in '{self}'; write '{self.name}/64+outer=…'")

    @property
    def format(self) -> FloatFormat | None:
        """The minifloat of the sums, None of hopper and int32."""
        return None if self.name in SPECIAL else _accumulator_format(self.name)

    @property
    def outer_format(self) -> FloatFormat:
        """The minifloat of the sum over chunks."""
        return _accumulator_format(self.outer or ("fp32" if self.name in SPECIAL else self.name))

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of any rounding of a sum: 2^-(t + 1), twice that of stochastic rounding; of hopper,
        what one product may lose relative to the largest of its group; 0 for int32, whose sums are exact."""
        if self.format is None:
            return self._inner_roundoff()
        formats = [self.format, self.outer_format] if self.chunk else [self.format]
        return max(_roundoff(fmt, self.stochastic) for fmt in formats)

    def _inner_roundoff(self) -> float:
        """The same inside a chunk."""
        if self.format is None:
            return 0.0 if self.name == "int32" else 2.0 ** (1 - HOPPER_BITS) + FLOAT32_ROUNDOFF
        return FLOAT32_ROUNDOFF if self.exact else _roundoff(self.format, self.stochastic)

    def error_bound(self, k: int) -> float:
        """ω with |Ĉ - A·Bᵀ| <= ω |A||B|ᵀ + `underflow_bound(k)`, elementwise, if nothing overflows: γ_n of a chunk's
        roundings and of those of the sum over chunks. Infinite where nothing can be said."""
        inner, outer = self._roundings(k)
        outer_roundoff = _roundoff(self.outer_format, self.stochastic)
        if self.name == "int32":
            return accumulation_bound(outer + 1, outer_roundoff)
        if self.name == "hopper":
            # Cutting makes sums smaller, so that each term loses at most u of |A||B|, and the sum with each group.
            lost = (inner + math.ceil(inner / HOPPER_GROUP)) * self._inner_roundoff()
        else:
            lost = accumulation_bound(inner + 1, self._inner_roundoff())
        if self.exact:
            lost = (1.0 + lost) * (1.0 + _roundoff(self.format, self.stochastic)) - 1.0
        return (1.0 + lost) * (1.0 + accumulation_bound(outer, outer_roundoff)) - 1.0

    def underflow_bound(self, k: int) -> float:
        """What products and sums below the normal numbers may lose in all; 0 for int32."""
        if self.name == "int32":
            return 0.0
        inner, outer = self._roundings(k)
        smallest = HOPPER_SMALLEST if self.format is None else self.format.smallest_subnormal
        below = max(outer, 1) * inner * max(smallest, FLOAT32_SMALLEST)
        return (below + outer * self.outer_format.smallest_subnormal) * (1.0 + self.error_bound(k))

    def _roundings(self, k: int) -> tuple[int, int]:
        """Of a chunk of K products, and of the sum over chunks (0 if there is one chunk only)."""
        if self.chunk is None or self.chunk >= k:
            return k, 0
        return self.chunk, math.ceil(k / self.chunk)

    def __str__(self) -> str:
        text = self.name if self.chunk is None else f"{self.name}/{self.chunk}"
        text += "+exact" if self.exact else ""
        text += "+sr" if self.stochastic else ""
        return text if self.outer is None else f"{text}+outer={self.outer}"


def _roundoff(fmt: FloatFormat | None, stochastic: bool) -> float:
    assert fmt is not None
    if is_float32(fmt):
        return FLOAT32_ROUNDOFF
    # The sum is a float32 number before it is rounded.
    return float(2.0 ** -(fmt.mantissa_bits + (0 if stochastic else 1))) + 2 * FLOAT32_ROUNDOFF


def _accumulator_format(name: str) -> FloatFormat:
    fmt = get(name)
    if not isinstance(fmt, FloatFormat) or not (is_float32(fmt) or grid_of(fmt)):
        raise ValueError(
            f"accumulator: {name} is none, accepted: fp32, hopper, int32 and signed minifloats with a zero whose "
            "exponents lie within float32's, such as fp16, bf16, dlfloat16"
        )
    return fmt


_PARSED: dict[str, Accumulator] = {}


def parse_accumulator(text: str | Accumulator) -> Accumulator:
    """The accumulator of a text such as `dlfloat16/64+exact` (an Accumulator is returned as it is); the table in the
    module's docstring has the forms. ValueError says what the text cannot mean."""
    if isinstance(text, Accumulator):
        return text
    if not isinstance(text, str):
        raise TypeError(f"accumulator: expected a string or an Accumulator, got {type(text).__name__}")
    # A plain dict: compilers that trace Python see through it.
    if text not in _PARSED:
        _PARSED[text] = _parse(text)
    return _PARSED[text]


def _parse(text: str) -> Accumulator:
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"accumulator: {text!r} is not {_FORM}")
    name, chunk = match["name"], match["chunk"]
    outer, flags = None, []
    for option in filter(None, match["options"].split("+")):
        if option.startswith("outer="):
            outer = get(option.removeprefix("outer=")).name
        elif option in ("exact", "sr") and option not in flags:
            flags.append(option)
        else:
            raise ValueError(f"accumulator: unknown option {option!r} in {text!r}; accepted: exact, sr, outer=format")
    return Accumulator(
        name=name if name in SPECIAL else get(name).name,
        chunk=int(chunk) if chunk else None,
        exact="exact" in flags,
        stochastic="sr" in flags,
        outer=outer,
    )


def accumulate(a: Tensor, b: Tensor, spec: str | Accumulator, seed: int = 0, offset: int = 0) -> Tensor:
    """a [M, K] · b [N, K]ᵀ, float32 [M, N], with the sums of `spec` (see the module); float32 operands on any device,
    any strides, without a gradient. seed, offset: the stream of `+sr` (not looked at otherwise). Equal arguments give
    equal bits on every device, but for what float32 GEMMs add up in their own order (`+exact`, fp32).

    Raises TypeError for other dtypes, ValueError for shapes that do not match, for int32 with values that are no
    integers, and for texts that `parse_accumulator` refuses.
    """
    text = spec if torch.compiler.is_compiling() and isinstance(spec, str) else str(parse_accumulator(spec))
    result: Tensor = torch.ops.narrowgauge.accumulate(a.detach(), b.detach(), text, seed, offset)
    return result


def _check(a: Tensor, b: Tensor) -> None:
    for name, x in (("a", a), ("b", b)):
        if x.dtype != torch.float32:
            raise TypeError(f"{name}: expected dtype float32, got {str(x.dtype).removeprefix('torch.')}")
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a, b: expected [M, K] and [N, K], got {tuple(a.shape)} and {tuple(b.shape)}")


def _in_chunks(x: Tensor, chunk: int) -> Tensor:
    """[rows, K] as [chunks, chunk, rows], the last chunk filled up with zeros."""
    k = x.shape[1]
    padded = torch.nn.functional.pad(x, (0, -k % chunk))
    return padded.t().contiguous().view(-1, chunk, x.shape[0])


def _may_reach(a: Tensor, b: Tensor, limit: float) -> bool:
    """Whether a sum of |products| may reach `limit` (Cauchy and Schwarz), or an operand is not finite."""
    largest = a.double().norm(dim=1).amax() * b.double().norm(dim=1).amax()
    return not bool(largest < limit)


def _accumulate(a: Tensor, b: Tensor, text: str, seed: int, offset: int) -> Tensor:
    _check(a, b)
    spec = parse_accumulator(text)
    (m, k), n = a.shape, b.shape[0]
    if not m * n * k:
        return a.new_zeros((m, n))
    chunk = min(spec.chunk or k, k)
    left, right = _in_chunks(a, chunk), _in_chunks(b, chunk)
    if spec.name == "int32":
        _check_integers(a, b)
    may_overflow = _may_reach(a, b, _overflow_limit(spec, k))
    stream = (seed, offset) if spec.stochastic else None
    out = a.new_empty((m, n))
    # An even number of rows: what they draw begins at an even place.
    step = max(2, SUMS_AT_ONCE // (len(left) * n) // 2 * 2)
    for start in range(0, m, step):
        sums = _chunk_sums(left[:, :, start : start + step], right, spec, may_overflow, stream, start * n)
        out[start : start + step] = sums[0] if len(sums) == 1 else added(
            sums, spec.outer_format, may_overflow=may_overflow, stream=stream, place=start * n,
            first_step=len(sums) * chunk,
        )  # fmt: skip
    if spec.name == "hopper" and may_overflow:
        plain = a @ b.t()
        out = torch.where(torch.isfinite(plain), out, plain)
    return out


def _overflow_limit(spec: Accumulator, k: int) -> float:
    """What Σ|a||b| stays below if no sum overflows: rounding enlarges sums by no more than the bound says."""
    formats = [fmt for fmt in (spec.format, spec.outer_format) if fmt is not None]
    return min(fmt.max for fmt in formats) / (1.0 + spec.error_bound(k))


def _chunk_sums(
    left: Tensor, right: Tensor, spec: Accumulator, may_overflow: bool, stream: tuple[int, int] | None, place: int
) -> Tensor:
    """Sums [C, M, N] of the chunks, of some rows, of which the first sum is number `place` of all."""
    if spec.format is None:
        return hopper(left, right) if spec.name == "hopper" else wrapped_integers(left, right).float()
    inner = whole if spec.exact or is_float32(spec.format) else stepwise
    return inner(left, right, spec.format, may_overflow=may_overflow, stream=stream, place=place)


def _check_integers(a: Tensor, b: Tensor) -> None:
    for name, x in (("a", a), ("b", b)):
        if not torch.equal(x, x.trunc()) or _may_reach(x, x, torch.inf):
            raise ValueError(f"{name}: an int32 accumulator takes integers, such as codes, got other values")
    if _may_reach(a, b, EXACT_INTEGERS):
        raise ValueError("a, b: integers whose sum of products may pass 2^53, accepted: smaller ones")


def _fake(a: Tensor, b: Tensor, text: str, seed: int, offset: int) -> Tensor:
    _check(a, b)
    return a.new_empty((a.shape[0], b.shape[0]))


LIBRARY.define(
    "accumulate(Tensor a, Tensor b, str text, int seed, int offset) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
LIBRARY.impl("accumulate", _accumulate, "CompositeExplicitAutograd")
torch.library.register_fake("narrowgauge::accumulate", _fake, lib=LIBRARY)
