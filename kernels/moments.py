"""How an optimizer's moment is stored: one code per element, and float32 numbers per group of the flattened tensor.

With q the decoded code and a = max |x| of the group, s(f) = a / amax_target(f) as in `quantize`:

| kind      | numbers per group | code                              | reads back as              |
|-----------|-------------------|-----------------------------------|----------------------------|
| plain     | none              | x in float32 or bfloat16 (RNE)    | x                          |
| linear    | s                 | encode(x / s)                     | q · s                      |
| root      | s of sqrt(x)      | encode(sqrt(x) / s)               | (q · s)²                   |
| expanded  | a, k              | E4M3(sign(x) · 448 · (|x| / a)^k) | sign(q) · a · |q / 448|^(1/k) |

`expanded` is COAT's dynamic range expansion (arXiv 2410.19313): k stretches the group's own range to the format's,

    k = floor(16 · log2(100352) / log2(a / smallest)) / 16        100352 = 448² / 2, as in the authors' kernel

where `smallest` is the smallest magnitude that is not zero. The authors scale by the geometric middle c and
s = (a / c)^k / 448; c cancels, so a and k say it all, and the largest element, hence a constant group, keeps its value
to an ulp. k is kept within [least_power, 2^12]: one value far below its group (a dead input's m decays for ever) would
otherwise cost every other its precision. Below the floor a tiny m becomes 0 and a tiny v the smallest code. Magnitudes
under 2^-126 count as zero. `coat_paper` takes the paper's target, 448 / 2^-9, and (nearly) exact powers.

Any number format of at most 8 bits with a zero serves `linear`: where no name of `CODECS` is given, a scheme such as
"nf4/1x128" is, groups of the flattened tensor, rule amax.

For every coded kind: zero reads back as zero, and a positive second moment never does, because m / (sqrt(v) + eps)
would explode. A group that holds a NaN or an infinity gets NaN numbers: it reads back as NaN, and no other group does.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from math import log2
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Format, ScaleRule, Scheme, get, parse
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.tables import search_table, unordered

MOST_POWER = 2.0**12
"""Largest k: it leaves an error of at most 2^-16, and keeps k · log(|x| / a) good to a fraction of a code."""
SMALLEST_MAGNITUDE = 2.0**-126
"""Smallest magnitude that range expansion tells from zero, so that devices which flush subnormals agree."""


LARGEST_GROUP = 1024
"""What one program of a kernel holds."""


class Limits(NamedTuple):
    """lowest: value of a format. largest, smallest: positive ones. target: where scales put the largest of a group.
    reached: the smallest float32 that encodes to a positive value."""

    target: float
    lowest: float
    largest: float
    smallest: float
    reached: float


@lru_cache(maxsize=64)
def _limits(name: str) -> Limits:
    fmt = get(name)
    table = search_table(fmt)
    values = fmt.decode(table.codes)
    first = int(np.argmax(values > 0))
    beyond = float(torch.finfo(torch.float32).max)  # takum8 reaches farther
    return Limits(
        fmt.amax_target,
        max(fmt.min, -beyond),
        min(fmt.max, beyond),
        float(values[first]),
        float(unordered(table.thresholds[first - 1 : first])[0]),
    )


class MomentCodec(NamedTuple):
    """One way to store one moment; see the table of the module. Hashable, plain data: Triton takes it as a constant.

    format: registered name of the code format ("fp32" and "bf16" for `plain`). group: elements that share `columns`
    float32 numbers. second: holds a second moment (never negative). For `expanded`: log2_range, the target range in
    octaves; power_steps, 1 / the granularity of k; least_power, its floor.
    """

    kind: str
    format: str
    second: bool
    group: int = 1
    columns: int = 0
    log2_range: float = 0.0
    power_steps: int = 1
    least_power: float = 1.0

    @property
    def element(self) -> Format:
        """Format of the codes (float32 has none: ValueError)."""
        fmt: Format = get(self.format)
        return fmt

    @property
    def largest(self) -> float:
        """Largest value of a code."""
        return _limits(self.format).largest

    @property
    def target(self) -> float:
        """Scaled value of the largest element of a group: `largest`, but for formats of tapered precision."""
        return _limits(self.format).target

    @property
    def lowest(self) -> float:
        """Most negative value of a code, 0 for second moments."""
        return 0.0 if self.second else _limits(self.format).lowest

    @property
    def smallest(self) -> float:
        """Smallest positive value of a code."""
        return _limits(self.format).smallest

    @property
    def reached(self) -> float:
        """Smallest scaled value whose code is positive."""
        return _limits(self.format).reached

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the stored values or codes."""
        if self.kind == "plain":
            return torch.float32 if self.format == "fp32" else torch.bfloat16
        return layout_of(self.element).code_dtype

    @property
    def zero_code(self) -> int:
        """The code of zero."""
        return 0 if self.kind == "plain" else int(self.element.encode(0.0))

    @property
    def bytes_per_parameter(self) -> float:
        """Storage of one element, its share of the group's numbers included."""
        return self.dtype.itemsize + 4 * self.columns / self.group

    def scale_shape(self, count: int) -> tuple[int, int]:
        """Shape of the numbers of a tensor of `count` elements; the last group may be short."""
        return -(-count // self.group), self.columns


def _coat(target_range: float, power_steps: int) -> tuple[MomentCodec, MomentCodec]:
    # Floors chosen by the error of m / sqrt(v) on states whose scale varies by e^N(0, σ²) within a group: up to σ = 3
    # neither costs anything, and a group with decayed elements keeps 5 % (m) and 11 % (v) instead of 20 % and more.
    log2_range = log2(target_range)
    return (
        MomentCodec("expanded", "e4m3fn", False, 128, 2, log2_range, power_steps, 0.5),
        MomentCodec("expanded", "e4m3fn", True, 128, 2, log2_range, power_steps, 0.25),
    )


_E4M3: Format = get("e4m3fn")

CODECS: dict[str, tuple[MomentCodec, MomentCodec]] = {
    "coat": _coat(_E4M3.max**2 / 2, 16),
    "coat_paper": _coat(_E4M3.max / _E4M3.smallest_subnormal, 2**16),
    "fp8": (MomentCodec("linear", "e4m3fn", False, 256, 1), MomentCodec("linear", "e4m3fn", True, 256, 1)),
    "int8": (MomentCodec("linear", "int8", False, 128, 1), MomentCodec("root", "uint8", True, 128, 1)),
    "dynamic8": (
        MomentCodec("linear", "dynamic8", False, 256, 1),
        MomentCodec("linear", "udynamic8", True, 256, 1),
    ),
    "bf16": (MomentCodec("plain", "bf16", False), MomentCodec("plain", "bf16", True)),
    "fp32": (MomentCodec("plain", "fp32", False), MomentCodec("plain", "fp32", True)),
}
"""Name → how the first and the second moment are stored.

fp8 is torchao's choice (E4M3, 256 elements a scale), dynamic8 that of bitsandbytes. int8 stores m linearly, and v, of
which linear codes lose the small values, as the linear code of its root (as FlashOptim, arXiv 2602.23349, does).
"""


def _codec(name: Any, second: bool) -> MomentCodec:
    if not isinstance(name, str):
        raise TypeError(f"state: expected the name of a codec or a scheme, got {type(name).__name__}")
    if name in CODECS:
        return CODECS[name][second]
    try:
        spec = parse(name)
    except ValueError as error:
        near = get_close_matches(name, CODECS, n=2, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        raise ValueError(
            f"state: unknown codec {name!r}; {hint}known: {', '.join(CODECS)}, and schemes such as nf4/1x128 ({error})"
        ) from None
    return _from_scheme(spec, second)


@lru_cache(maxsize=256)
def _from_scheme(spec: Scheme, second: bool) -> MomentCodec:
    """The linear codec of a scheme. ValueError, naming what it is that a moment cannot have."""
    rows, group = spec.tile
    fmt = spec.format
    problem = ""
    if isinstance(fmt, BlockFormat):
        problem = "is a block format, whose scales are codes, too; accepted: formats of single values, as e2m1fn/1x32"
    elif rows != 1 or group is None or not 1 < group <= LARGEST_GROUP or group & (group - 1):
        problem = f"has no groups of a flattened tensor; accepted: 1xG with G a power of two, 2 to {LARGEST_GROUP}"
    elif spec.rule is not ScaleRule.AMAX or spec.stochastic or spec.flush:
        problem = "asks for more than a moment has; accepted: the rule amax, to nearest, without options"
    elif layout_of(fmt) and not (fmt.has_zero and fmt.max > 0):
        problem = "has no zero or no positive value, which moments need"
    elif not second and not fmt.signed:
        problem = "is unsigned, and first moments are not; accepted for v alone"
    if problem:
        raise ValueError(f"state: {spec} {problem}")
    return MomentCodec("linear", fmt.name, second, group or 1, 1)


def first_moment(name: str) -> MomentCodec:
    """The codec of a first moment: a name of `CODECS`, or the text of a scheme. ValueError names the nearest."""
    return _codec(name, False)


def second_moment(name: str) -> MomentCodec:
    """The codec of a second moment: a name of `CODECS`, or the text of a scheme. ValueError names the nearest."""
    return _codec(name, True)


def empty_moment(codec: MomentCodec, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Stored zeros for a parameter: codes of its shape (contiguous), and the groups' numbers, None for `plain`."""
    codes = torch.full(like.shape, codec.zero_code, dtype=codec.dtype, device=like.device)
    if not codec.columns:
        return codes, None
    return codes, torch.ones(codec.scale_shape(like.numel()), dtype=torch.float32, device=like.device)


def check_moment(codec: MomentCodec, codes: Tensor, scale: Tensor | None, count: int, name: str) -> None:
    """ValueError, naming the tensor, unless codes and scale are what `codec` stores for `count` elements."""
    if codes.dtype != codec.dtype or codes.numel() != count or not codes.is_contiguous():
        raise ValueError(
            f"{name}: expected {count} contiguous {codec.dtype} elements, "
            f"got {codes.numel()} of {codes.dtype}{'' if codes.is_contiguous() else ', not contiguous'}"
        )
    expected = codec.scale_shape(count) if codec.columns else None
    if scale is None:
        fits = expected is None
    else:
        fits = tuple(scale.shape) == expected and scale.dtype is torch.float32 and scale.is_contiguous()
    if not fits:
        got = "none" if scale is None else f"{scale.dtype} {tuple(scale.shape)}"
        wanted = "none" if expected is None else f"contiguous torch.float32 {expected}"
        raise ValueError(f"{name}_scale: expected {wanted}, got {got}")
