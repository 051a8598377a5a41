"""The state codecs by name: how each stores the first and the second moment, and what other names mean.

A name of `CODECS`, or the text of a scheme such as "nf4/1x128". The kinds are those of kernels/moments.py.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from math import log2
from typing import Any

from narrowgauge.formats import BlockFormat, Format, ScaleRule, Scheme, get, parse
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.moments import LARGEST_GROUP, MomentCodec


def _coat(target_range: float, power_steps: int) -> tuple[MomentCodec, MomentCodec]:
    # Floors chosen by the error of m / sqrt(v) on states whose scale varies by e^N(0, σ²) within a group: up to σ = 3
    # neither costs anything, and a group with decayed elements keeps 5 % (m) and 11 % (v) instead of 20 % and more.
    log2_range = log2(target_range)
    return (
        MomentCodec("expanded", "e4m3fn", False, 128, 2, log2_range, power_steps, 0.5),
        MomentCodec("expanded", "e4m3fn", True, 128, 2, log2_range, power_steps, 0.25),
    )


def _log(bits: int, rounding: str, group: int) -> tuple[MomentCodec, MomentCodec]:
    # 8 bits round m to nearest: its average forgets within ten steps.
    first = "nearest" if bits == 8 else rounding
    return (
        MomentCodec("softsign", "", False, group, 1, bits=bits, rounding=first, scale_dtype="bfloat16", whitened=True),
        MomentCodec(
            "log",
            "",
            True,
            group,
            2,
            bits=bits,
            rounding=rounding,
            scale_dtype="int16",
            most_step=0.25 if bits == 8 else 2.0,
        ),
    )


_E4M3: Format = get("e4m3fn")

CODECS: dict[str, tuple[MomentCodec, MomentCodec]] = {
    "log8": _log(8, "stochastic", 128),
    "log4": _log(4, "dither", 64),
    "coat": _coat(_E4M3.max**2 / 2, 16),
    "coat_paper": _coat(_E4M3.max / _E4M3.smallest_subnormal, 2**16),
    "fp8": (MomentCodec("linear", "e4m3fn", False, 256, 1), MomentCodec("linear", "e4m3fn", True, 256, 1)),
    "fp8_e5m2": (MomentCodec("linear", "e4m3fn", False, 256, 1), MomentCodec("linear", "e5m2", True, 256, 1)),
    "int8": (MomentCodec("linear", "int8", False, 128, 1), MomentCodec("root", "uint8", True, 128, 1)),
    "dynamic8": (
        MomentCodec("linear", "dynamic8", False, 256, 1),
        MomentCodec("linear", "udynamic8", True, 256, 1),
    ),
    "flash": (
        MomentCodec("softsign", "", False, 32, 1),
        MomentCodec("root", "uint8", True, 32, 1),
    ),
    "int4": (
        MomentCodec("linear", "de4", False, 128, 1, bits=4),
        MomentCodec("rank-1", "uint4", True, 128, 1, bits=4),
    ),
    "solo": (
        MomentCodec("linear", "de4", False, 128, 1, bits=4),
        MomentCodec("quantile", "", True, 128, 2, bits=2, rounding="stochastic"),
    ),
    "bf16": (MomentCodec("plain", "bf16", False), MomentCodec("plain", "bf16", True)),
    "bf16_sr": (
        MomentCodec("plain", "bf16", False, rounding="stochastic"),
        MomentCodec("plain", "bf16", True, rounding="stochastic"),
    ),
    "fp32": (MomentCodec("plain", "fp32", False), MomentCodec("plain", "fp32", True)),
}
"""Name → how the first and the second moment are stored.

log8 and log4 are ours. fp8 is torchao's choice (E4M3, 256 elements a scale), fp8_e5m2 takes E5M2 for v, dynamic8 is
bitsandbytes'. int8 stores m linearly, and v, of which linear codes lose the small values, as the linear code of its
root. flash is FlashOptim's (its float16 scales underflow at small gradients: here they are float32). int4 is lpmm's,
solo SOLO's; both have the signed dynamic-exponent map for m.
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
    return MomentCodec("linear", fmt.name, second, group or 1, 1, bits=4 if fmt.bits <= 4 else 8)


def first_moment(name: str) -> MomentCodec:
    """The codec of a first moment: a name of `CODECS`, or the text of a scheme. ValueError names the nearest."""
    return _codec(name, False)


def second_moment(name: str) -> MomentCodec:
    """The codec of a second moment: a name of `CODECS`, or the text of a scheme. ValueError names the nearest."""
    return _codec(name, True)


def lone_moment(name: str) -> MomentCodec:
    """The codec of a momentum that has no second moment beside it, as Lion's: the first moment's, not whitened.

    Instead of dither it takes stochastic rounding: dithered zeros read back as noise, of which Lion's sign makes steps.
    """
    codec = _codec(name, False)
    rounding = "stochastic" if codec.rounding == "dither" else codec.rounding
    return codec._replace(whitened=False, rounding=rounding)
