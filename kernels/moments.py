"""How an optimizer's moment is stored: one code per element, and a few numbers per group of the flattened tensor.

With q the decoded code and a = max |x| of the group, s(f) = a / amax_target(f) as in `quantize`:

| kind     | numbers per group | code                                | reads back as                     |
|----------|-------------------|-------------------------------------|-----------------------------------|
| plain    | none              | x in float32 or bfloat16            | x                                 |
| linear   | s                 | encode(x / s)                       | q · s                             |
| root     | s of sqrt(x)      | encode(sqrt(x) / s)                 | (q · s)²                          |
| expanded | a, k              | E4M3(sign(x) · 448 · (|x| / a)^k)   | sign(q) · a · |q / 448|^(1/k)     |
| log      | lo, D             | 1 + y, y = (log2(x) - lo) / D; 0: 0 | 2^(lo + (code - 1) · D)           |
| softsign | s = a             | L · 2z / (1 + |z|), z = x / s       | s · t / (2 - |t|), t = code / L   |
| rank-1   | s of row, column  | encode(x / min(row, column))        | q · min(row, column)              |
| quantile | a, α              | log(x / a) / log(α)                 | a · α^code                        |

`expanded` is COAT's dynamic range expansion (arXiv 2410.19313): k stretches the group's own range to the format's,

    k = floor(16 · log2(100352) / log2(a / smallest)) / 16        100352 = 448² / 2, as in the authors' kernel

where `smallest` is the smallest magnitude that is not zero. The authors scale by the geometric middle c and
s = (a / c)^k / 448; c cancels, so a and k say it all, and the largest element, hence a constant group, keeps its value
to an ulp. k is kept within [least_power, 2^12]: one value far below its group (a dead input's m decays for ever) would
otherwise cost every other its precision. Below the floor a tiny m becomes 0 and a tiny v the smallest code. Magnitudes
under 2^-126 count as zero. `coat_paper` takes the paper's target, 448 / 2^-9, and (nearly) exact powers.

`log` is ours, for second moments: an affine code of the logarithm whose ends are the group's own smallest and largest
positive value, so the relative error is everywhere the same and nothing positive becomes zero. n = 2^bits - 2 steps:

    lo = floor(128 · max(log2(smallest), log2(a) - n · most)) / 128
    D  = bfloat16, up, of max((log2(a) - lo) / n, 2^-16)                      most = 1/4 (8 bits), 2 (4 bits) octaves

stored as int16 [lo · 128, the bits of D]. `most` keeps one dead element, whose v decays for ever, from costing every
other its precision; what lies below lo reads back as 2^lo (y is at least 0). Rounding is stochastic, and unbiased in x,
not in its logarithm: between the neighbours L <= x < L · 2^D the upper one is taken where the draw
u <= (x / L - 1) / (2^D - 1). To nearest, an average with β₂ = 0.999 never forgets: its steps are smaller than half a
code. bfloat16 is rounded stochastically by adding the draw's 16 bits to those of the float32 that are then cut off.
Evaluated around the middle of the range,

    mid = lo + n/2 · D    y = log2(x · 2^-mid) / D + n/2    x̂ = 2^mid · 2^((code - 1 - n/2) · D)

(exponents not below -126), which keeps float32 accurate and finite. Magnitudes under 2^-126 count as zero.

`softsign` is a companded integer, L = 2^(bits-1) - 1 (7 or 127; Databricks' FlashOptim, arXiv 2602.23349). Its s is
rounded to the nearest bfloat16 (rounded up, the largest value of a group would grow with every write), and codes are
clamped to ±L; s = 0 for a group of zeros, whose dithered codes would not read back as zero otherwise. `whitened`
moments store x = m / sqrt(v̂) instead of m, where v̂ is what the second moment's code just written reads back as (x = 0
where v̂ = 0): v̂'s error then cancels, and one scale serves a group whatever the gradients' scales are within it.

`dither`: subtractive dither for 4 bits: code = floor(y + u), read back with y = code + 1/2 - u; u is drawn again from
the key of the step that wrote it. A dithered log code is multiplied by h / sinh(h), h = D · ln(2) / 2, which makes it
unbiased. The draws are those of kernels/random_words.py: 16 bits an element. A momentum without second moment rounds
stochastically instead, code = floor(y + u), read back as it is.

`rank-1` (v of lpmm's 4-bit AdamW, arXiv 2309.01507) divides by the smaller scale of an element's row and column;
tensors of more axes than two have the first and the others flattened, those of one axis take groups of 128. A NaN
spoils the numbers of its row and column, and what has another one reads back by that.

`quantile` (v of SOLO, arXiv 2505.00347) takes α = Q^(1 / (2^bits - 1)), Q the quantile 0.1 (linear between neighbours)
of the group's positive x / a, and the code floor(log(x / a) / log(α) + u), at most 2^bits - 1: SOLO's rounding, which
is not unbiased. It spends no code on zero, which reads back as the smallest value among others and as zero in a group
of zeros, where a = 0. Magnitudes under 2^-126 count as zero.

Both need the whole tensor or a sort: `kernels/stored_moments.py` alone stores them, not the fused step.

Any number format of at most 8 bits with a zero serves `linear`: where no name of kernels/codecs.py is given, a scheme
such as "nf4/1x128" is, groups of the flattened tensor, rule amax.

Codes of at most 4 bits are packed, the first of a byte in its low bits; two's complement for softsign, as the format
says for others. Places left over in the last byte hold the code of zero.

For every coded kind but quantile zero reads back as zero (a dithered m where v is zero); for all of them a group of
zeros does, and a positive second moment never does, because m / (sqrt(v) + eps) would explode. A group that holds a NaN
or an infinity gets NaN numbers: it reads back as NaN, and no other group does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Format, get
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.tables import search_table, unordered

MOST_POWER = 2.0**12
"""Largest k: it leaves an error of at most 2^-16, and keeps k · log(|x| / a) good to a fraction of a code."""
SMALLEST_MAGNITUDE = 2.0**-126
"""Smallest magnitude that range expansion and logarithms tell from zero, so that devices which flush subnormals agree.
"""
LOG_UNIT = 2.0**-7
"""Octaves in a unit of the stored lo."""
SMALLEST_STEP = 2.0**-16
"""Smallest D, in octaves."""
ONE_BITS = 0x3F80
"""1.0 in bfloat16."""
NAN_BITS = 0x7FC0
"""NaN in bfloat16, the D of a group that is not finite."""
QUANTILE = 0.1
"""Q, of SOLO."""

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

    format: registered name of the code format ("fp32" and "bf16" for `plain`, "" for `log`, `softsign`, `quantile`).
    second: holds a second moment (never negative). group: elements that share numbers. columns: numbers a group.
    bits: of a code. rounding: "nearest", "stochastic" or "dither". scale_dtype: of the numbers ("float32"; "bfloat16",
    rounded to nearest before anything is divided by it; "int16" for `log`). whitened: see the module; for m alone.
    For `expanded`: log2_range, the target range in octaves; power_steps, 1 / the granularity of k; least_power.
    For `log`: most_step, the largest D in octaves.
    """

    kind: str
    format: str
    second: bool
    group: int = 1
    columns: int = 0
    log2_range: float = 0.0
    power_steps: int = 1
    least_power: float = 1.0
    bits: int = 8
    rounding: str = "nearest"
    scale_dtype: str = "float32"
    whitened: bool = False
    most_step: float = 0.25

    @property
    def element(self) -> Format:
        """Format of the codes (float32, log and softsign have none: ValueError)."""
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
    def levels(self) -> int:
        """`log`: n, the steps between the smallest and the largest value. `softsign`: L, the largest code."""
        return (1 << self.bits) - 2 if self.kind == "log" else (1 << (self.bits - 1)) - 1

    @property
    def draws(self) -> bool:
        """Whether storing takes random words."""
        return self.rounding != "nearest"

    @property
    def per_byte(self) -> int:
        """Codes in a byte."""
        return 8 // self.bits if self.bits <= 4 else 1

    @property
    def is_coded(self) -> bool:
        """Whether elements are stored as codes of groups, not as floating-point numbers."""
        return self.kind != "plain"

    @property
    def fused(self) -> bool:
        """Whether the fused step stores it; else it goes through kernels/stored_moments.py."""
        return self.kind not in ("rank-1", "quantile")

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the stored values or codes (uint8 where they are packed)."""
        if self.kind == "plain":
            return torch.float32 if self.format == "fp32" else torch.bfloat16
        if self.per_byte > 1 or self.kind in ("log", "quantile"):
            return torch.uint8
        return torch.int8 if self.kind == "softsign" else layout_of(self.element).code_dtype

    @property
    def zero_code(self) -> int:
        """The code of zero."""
        return int(self.element.encode(0.0)) if self.format and self.is_coded else 0

    @property
    def zero_scale(self) -> tuple[float, ...]:
        """The numbers of a group of zeros."""
        if self.kind == "log":
            return 0, ONE_BITS
        if self.kind == "quantile":
            return 0.0, 1.0
        return (0.0 if self.kind == "softsign" else 1.0,) * self.columns

    @property
    def bytes_per_parameter(self) -> float:
        """Storage of one element, its share of the group's numbers included (rank-1 numbers: none)."""
        code = 1 / self.per_byte if self.is_coded else self.dtype.itemsize
        return code + self.torch_scale_dtype.itemsize * self.columns / self.group

    @property
    def torch_scale_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.scale_dtype)
        return dtype

    def codes_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Shape of the codes of a tensor: its own, or that of the packed bytes, flat."""
        return tuple(shape) if self.per_byte == 1 else (-(-shape.numel() // self.per_byte),)

    def scale_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """Shape of a tensor's numbers: [groups, columns], the last group may be short; rank-1: rows + columns, flat."""
        if self.kind == "rank-1" and len(shape) > 1:
            return (shape[0] + shape[1:].numel(),)
        return -(-shape.numel() // self.group), self.columns


def empty_moment(codec: MomentCodec, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Stored zeros for a parameter: codes (contiguous), and the groups' numbers, None for `plain`."""
    fill = codec.zero_code
    if codec.per_byte > 1:
        fill = sum(codec.zero_code << (codec.bits * place) for place in range(codec.per_byte))
    codes = torch.full(codec.codes_shape(like.shape), fill, dtype=codec.dtype, device=like.device)
    if not codec.columns:
        return codes, None
    scale = torch.empty(codec.scale_shape(like.shape), dtype=codec.torch_scale_dtype, device=like.device)
    if scale.ndim == 1:
        return codes, scale.fill_(1.0)
    return codes, scale.copy_(torch.tensor(codec.zero_scale, dtype=scale.dtype).expand_as(scale))


def check_moment(codec: MomentCodec, codes: Tensor, scale: Tensor | None, shape: torch.Size, name: str) -> None:
    """ValueError, naming the tensor, unless codes and scale are what `codec` stores for a tensor of `shape`."""
    count = torch.Size(codec.codes_shape(shape)).numel()
    if codes.dtype != codec.dtype or codes.numel() != count or not codes.is_contiguous():
        raise ValueError(
            f"{name}: expected {count} contiguous {codec.dtype} elements, "
            f"got {codes.numel()} of {codes.dtype}{'' if codes.is_contiguous() else ', not contiguous'}"
        )
    expected = codec.scale_shape(shape) if codec.columns else None
    if scale is None:
        fits = expected is None
    else:
        fits = tuple(scale.shape) == expected and scale.dtype is codec.torch_scale_dtype and scale.is_contiguous()
    if not fits:
        got = "none" if scale is None else f"{scale.dtype} {tuple(scale.shape)}"
        wanted = "none" if expected is None else f"contiguous {codec.torch_scale_dtype} {expected}"
        raise ValueError(f"{name}_scale: expected {wanted}, got {got}")
