"""What the comparisons with other libraries share: probes, the libraries' names of our formats, and how to compare.

The oracles are fed float32, which all of them round once; `docs/oracles.md` has the table of what was compared, the
versions it was read from and the known contradictions.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import ml_dtypes
import numpy as np
from gfloat import Domain, FormatInfo, RoundMode
from gfloat.formats import format_info_bfloat16, format_info_binary16, format_info_ocp_e8m0

from narrowgauge.formats import FloatFormat, Format, Rounding

READ_FROM = {
    "ml_dtypes": "0.6.0",
    "gfloat": "0.5.2",
    "torch": "2.13.0",
    "en-dtypes": "0.0.4",
    "softposit": "0.3.4.4",
    "bitstring": "5.0.0",
    "apytypes": "0.5.1",
    "pychop": "0.6.2",
    "qtorch": "0.3.0",
    "torchao": "0.18.0",
    "bitsandbytes": "0.50.2",
    "microxcaling": "7bc4195",
}
"""The versions that the tests were read from; `docs/oracles.md` names the same."""

EVERY_BF16 = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
with np.errstate(invalid="ignore"):  # signalling NaN
    EVERY_FP16 = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)

ML_DTYPES = {
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e4m3": ml_dtypes.float8_e4m3,
    "e3m4": ml_dtypes.float8_e3m4,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "e2m3fn": ml_dtypes.float6_e2m3fn,
    "e3m2fn": ml_dtypes.float6_e3m2fn,
    "e2m1fn": ml_dtypes.float4_e2m1fn,
    "e8m0fnu": ml_dtypes.float8_e8m0fnu,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
}
ML_INTEGERS = {
    "int2": ml_dtypes.int2,
    "int4": ml_dtypes.int4,
    "int2_full": ml_dtypes.int2,
    "int4_full": ml_dtypes.int4,
    "uint2": ml_dtypes.uint2,
    "uint4": ml_dtypes.uint4,
}


def generic(
    bits: int, precision: int, bias: int, nans: int = 0, *, infinity: bool = False, zeros: int = 2, signed: bool = True
) -> FormatInfo:
    """gfloat's record of a minifloat with subnormals; zeros: 2 where -0 exists, 1 where its code is the NaN."""
    return FormatInfo(
        name="generic",
        k=bits,
        precision=precision,
        bias=bias,
        is_signed=signed,
        domain=Domain.Extended if infinity else Domain.Finite,
        has_nz=zeros == 2,
        num_high_nans=nans,
        has_subnormals=True,
        is_twos_complement=False,
    )


GFLOAT = {
    "e4m3fn": generic(8, 4, 7, 1),
    "e5m2": generic(8, 3, 15, 3, infinity=True),
    "e4m3": generic(8, 4, 7, 7, infinity=True),
    "e3m4": generic(8, 5, 3, 15, infinity=True),
    "e4m3fnuz": generic(8, 4, 8, zeros=1),
    "e5m2fnuz": generic(8, 3, 16, zeros=1),
    "e4m3b11fnuz": generic(8, 4, 11, zeros=1),
    "e2m3fn": generic(6, 4, 1),
    "e3m2fn": generic(6, 3, 3),
    "e2m1fn": generic(4, 2, 1),
    "e1m2": generic(4, 3, 1),
    "e3m4fn": generic(8, 5, 3, 1),
    "e5m6": generic(12, 7, 15, 63, infinity=True),
    "e2m5b3": generic(8, 6, 3),
    "e5m0b11n1": generic(6, 1, 11, 1),
    "e3m2b-20": generic(6, 3, -20),
    "e6m9b31i": generic(16, 10, 31, infinity=True),
    "tf32": generic(19, 11, 127, 1023, infinity=True),
    "fp16": format_info_binary16,
    "bf16": format_info_bfloat16,
    "e8m0fnu": format_info_ocp_e8m0,
}
GFLOAT_MODES = {
    Rounding.NEAREST_EVEN: RoundMode.TiesToEven,
    Rounding.NEAREST_AWAY: RoundMode.TiesToAway,
    Rounding.TOWARD_ZERO: RoundMode.TowardZero,
    Rounding.UP: RoundMode.TowardPositive,
    Rounding.DOWN: RoundMode.TowardNegative,
}
GFLOAT_STOCHASTIC = {
    Rounding.STOCHASTIC: RoundMode.StochasticFastest,
    Rounding.STOCHASTIC_B: RoundMode.StochasticFast,
    Rounding.STOCHASTIC_C: RoundMode.Stochastic,
}
"""gfloat's names run the other way: what it calls plainly `Stochastic` rounds the fraction to the bits first."""


def same(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Equal values, with the sign of zeros, and NaN in the same places."""
    real = ~np.isnan(expected)
    signs = np.array_equal(np.signbit(actual[real]), np.signbit(expected[real]))
    return np.array_equal(actual, expected, equal_nan=True) and signs


def differences(actual: np.ndarray, expected: np.ndarray, x: np.ndarray) -> str:
    """Empty where both are the `same`, else how many are not and the first few: input, ours, theirs."""
    equal = (actual == expected) & (np.signbit(actual) == np.signbit(expected)) | np.isnan(actual) & np.isnan(expected)
    wrong = np.flatnonzero(~equal)
    some = "; ".join(f"{x[i]!r}: {actual[i]!r}, theirs {expected[i]!r}" for i in wrong[:4])
    return f"{len(wrong)} of {len(x)} differ: {some}" if len(wrong) else ""


def _installed(oracle: str) -> str:
    try:
        return version(oracle)
    except PackageNotFoundError:  # a source tree on the path
        return "(no version)"


def read(oracle: str, got: object, expected: object) -> None:
    """Asserts that an oracle still does what was read from it; otherwise says which version does something else."""
    installed, old = _installed(oracle), READ_FROM[oracle]
    same_still = np.array_equal(
        np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64), equal_nan=True
    )
    assert same_still, (
        f"{oracle} {installed} gives {got} where {old} gave {expected}. A contradiction has gone or changed: read what "
        "the new version does, then adapt this test and docs/oracles.md"
    )


def wide(x: np.ndarray) -> np.ndarray:
    """x as float64, without the warning that a signalling NaN gives."""
    with np.errstate(invalid="ignore"):
        return x.astype(np.float64)


def around(fmt: Format, narrow: type[np.floating] = np.float32) -> np.ndarray:
    """Every value, midpoint and overflow threshold of `fmt`, each with its two neighbours in `narrow`, in both signs.

    Of formats above 16 bits it is a sample of the values. Exact in `narrow`; dtype `narrow`.
    """
    values = fmt.values() if fmt.bits <= 16 else fmt.decode(np.arange(0, 2**fmt.bits, 61))
    values = np.unique(np.abs(values[np.isfinite(values)]))
    info = np.finfo(narrow)
    ends = [info.smallest_subnormal, info.smallest_normal, info.max]
    with np.errstate(over="ignore", under="ignore"):
        beyond = values[-1] + (values[-1] - values[-2]) * np.array([0.5, 1.0, 1.5, 4.0])
        midpoints = values[1:] / 2 + values[:-1] / 2
        x = np.concatenate([values, midpoints, [values[1] / 2, values[1] / 4], beyond, ends])
        x = x.astype(narrow)
        x = x[np.isfinite(x)]
        x = np.unique(np.concatenate([x, np.nextafter(x, narrow(np.inf)), np.nextafter(x, narrow(-np.inf))]))
    return np.concatenate([x, -x])


def million(fmt: FloatFormat) -> np.ndarray:
    """10^6 float32: half of them any bit pattern, half spread over the binades of `fmt` and two more each side."""
    rng = np.random.default_rng(5)
    patterns = rng.integers(0, 2**32, 500_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    low, high = np.log2(fmt.smallest_subnormal) - 2, np.log2(fmt.max) + 2
    with np.errstate(over="ignore", under="ignore"):
        spread = np.exp2(rng.uniform(low, high, 500_000)).astype(np.float32)
    return np.concatenate([patterns, np.where(rng.random(500_000) < 0.5, spread, -spread)])


def sixteen_bit_inputs(fmt: Format) -> np.ndarray:
    """All fp16 and all bf16 inputs as float32; without NaN where `fmt` has none."""
    x = np.concatenate([EVERY_FP16, EVERY_BF16])
    return x if fmt.has_nan else x[~np.isnan(x)]


def hard_inputs(fmt: FloatFormat) -> np.ndarray:
    """`sixteen_bit_inputs`, `around` and `million` of the format in one float32 array."""
    x = np.concatenate([sixteen_bit_inputs(fmt), around(fmt), million(fmt)])
    return x if fmt.has_nan else x[~np.isnan(x)]
