"""Figures of the same codecs from elsewhere, to stand beside the measured ones.

They come from emulations in numpy and ml_dtypes made before this package had any of the codecs, on data of the same
description but other seeds, so that they agree to a few per cent, ratios near a cliff (v that barely forgets or barely
vanishes) to a factor. The bytes are those of the papers and of the released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, nan

from narrowgauge.bench.optim_quality.table import Figures

Expected = Mapping[str, Figures]
KERNEL, PAPER, E4M3, AO_FP8 = (
    "COAT, released kernel",
    "COAT kernel, paper's range",
    "E4M3, groups of 128",
    "torchao FP8",
)
AO8, BNB, FLASH, FLASH32 = "torchao 8-bit", "bitsandbytes 8-bit", "FlashOptim", "FlashOptim, float32 scales"
BF16, BF16_SR = "bfloat16, to nearest", "bfloat16, stochastic"
NEAREST, LOG8 = "log8, to nearest", "log8"


def _rows(columns: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> Expected:
    return {
        name: {column: value for column, value in zip(columns, values, strict=False) if value is not None}
        for name, values in rows.items()
    }


DATA = ("iid", "rank-1", "lognormal 1", "lognormal 2")
UPDATE_ERROR = _rows(
    [f"{name}, {beta2}" for beta2 in ("0.95", "0.999") for name in DATA],
    {
        AO_FP8: (8.64e-4, 8.72e-4, inf),
        KERNEL: (2.13e-4, 3.15e-4, 5.72e-4, 15.8e-4, 2.05e-4, 3.14e-4, 5.55e-4, 15.5e-4),
        BNB: (1.30e-4, 3.99e-4, inf),
        FLASH32: (0.29e-4, 0.86e-4, nan),
        NEAREST: (0.31e-4, 0.40e-4, 0.65e-4, 1.67e-4, 0.32e-4, 0.41e-4, 0.66e-4, 1.69e-4),
    },
)
MOMENT_ERROR = _rows(
    ("NMSE of m", "rel. rms of v", "max rel. of v"),
    {
        E4M3: (6.6e-4, 2.7e-2, 0.059),
        AO_FP8: (6.8e-4, 2.6e-2, 0.059),
        KERNEL: (2.08e-4, 3.2e-3, 0.031),
        PAPER: (1.8e-4, 3.2e-3, 0.047),
        BNB: (1.18e-4, 4.0e-3, 0.017),
        FLASH32: (2.5e-5, 2.9e-3, 0.008),
        NEAREST: (2.9e-5, 1.32e-3, 0.003),
        "int8": (4.2e-5, 1.34e-3, 0.004),
    },
)
ZERO_SHARE = _rows(
    ("σ = 1", "σ = 1.5", "σ = 2"),
    {
        AO_FP8: (0.049, 8.0, 34.0),
        E4M3: (0.025, 5.5, 27.0),
        BNB: (0.0006, 1.5, 16.0),
        FLASH: (0.015, 3.2, 17.0),
        FLASH32: (0.015, 3.2, 17.0),
        KERNEL: (0.0, 0.0, 0.0),
        NEAREST: (0.0, 0.0, 0.0),
        LOG8: (0.0, 0.0, 0.0),
    },
)
SIZES = ("0.0001", "1e-05", "1e-06", "1e-07", "3e-08", "1e-08")
SMALL_GRADIENTS = _rows(
    [f"{what}, {size}" for what in ("m", "v") for size in SIZES],
    {FLASH: (2.5e-5, 3.6e-5, 1.1e-3, 0.060, 1.0, 1.0, 0.0029, 0.0040, 0.028, 0.12, 1.6, 1.0)},
)
FORGETTING = _rows(
    ("β₂ = 0.95", "β₂ = 0.99", "β₂ = 0.999"),
    {
        BF16: (1.00, 1.07, 22.3),
        AO_FP8: (0.99, 11.6, 11.9),
        KERNEL: (0.99, 9.0, 11.7),
        BNB: (0.99, 5.4, 12.1),
        FLASH32: (1.06, 3.0, 7.8),
        NEAREST: (1.01, 3.2, 11.1),
        LOG8: (1.00, 1.01, 0.97),
        BF16_SR: (1.00, None, 1.00),
    },
)
STATIONARY = _rows(
    [f"{what}, {beta2}" for beta2 in ("0.95", "0.99", "0.999") for what in ("mean", "p1", "p99")],
    {
        E4M3: (0.995, 0.82, 1.22, 1.67, 0.87, 3.7, 1.33, 0.55, 2.46),
        AO_FP8: (0.999, 0.82, 1.23, 2.07, 0.98, 3.8, 1.26, 0.53, 2.5),
        KERNEL: (0.997, 0.94, 1.02, 0.98, 0.92, 1.04, 0.71, 0.40, 2.06),
        PAPER: (0.997, 0.97, 1.02, 0.995, 0.95, 1.02, 0.75, 0.45, 1.6),
        BNB: (1.000, 0.97, 1.03, 1.002, 0.96, 1.05, 1.08, 0.98, 1.21),
        FLASH32: (1.000, 0.98, 1.02, 1.001, 0.96, 1.04, 1.06, 0.95, 1.2),
        NEAREST: (1.000, 0.99, 1.01, 1.000, 0.99, 1.01, 1.003, 0.993, 1.013),
        LOG8: (None, None, None, None, None, None, None, 0.985, 1.015),
    },
)
_TOY = (1.745e-7, 9.68e-8)
TOY = _rows(
    ("β₂ = 0.95", "β₂ = 0.999"),
    {
        name: [loss / exact for loss, exact in zip(losses, _TOY, strict=True)]
        for name, losses in {
            BF16: (1.745e-7, 1.15e-6),
            E4M3: (4.6e-3, 8.9e-1),
            AO_FP8: (5.0e-3, 7.0e-3),
            KERNEL: (1.755e-7, 1.03e-7),
            BNB: (1.748e-7, 9.96e-8),
            FLASH: (2.0e-3, 1.99e-7),
            NEAREST: (1.745e-7, 9.65e-8),
            LOG8: (1.749e-7, 9.74e-8),
        }.items()
    },
)
DEFECTS: Expected = {
    KERNEL: {"constant 0.001": nan, "zeros": 0.0, "0 at 0: m": 0.136, "0 at 0: v": 0.15, "0 at 32: max m": 1.0,
             "m": 0.015, "tiny: m": 0.042},
}  # fmt: skip
_W_BF16, _W_BF16_SR = "bfloat16 weight, to nearest", "bfloat16 weight, stochastic"
_SPLIT, _SPLIT_SR = "bfloat16 + int8, to nearest (FlashOptim)", "bfloat16 + int8, stochastic"
DECAY: Expected = {
    _SPLIT: {"from 1, 3e-05": 1.058, "from 1, 1e-05": 0.0, "from 1, 3e-06": 0.0},
    _SPLIT_SR: {"from 1, 3e-05": 1.0, "from 1, 1e-05": 1.0, "from 1, 3e-06": 1.0},
    _W_BF16_SR: {"from 1, 3e-05": 0.996},
}
DRIFT: Expected = _rows(
    ("1e-05", "3e-06", "1e-06"),
    {
        _SPLIT: (0.785, 0.0, 0.0),
        _SPLIT_SR: (1.004, 1.001, 1.008),
        _W_BF16: (0.0, 0.0, 0.0),
        _W_BF16_SR: (0.96, 0.98, 0.83),
    },
)
BYTES: Expected = _rows(
    ("bytes",),
    {
        "fp32": (8.0,), BF16: (4.0,), BF16_SR: (4.0,), BNB: (2.031,), AO8: (2.031,), "torchao 4-bit": (1.0625,),
        AO_FP8: (2.031,), KERNEL: (2.1875,), "FP8-LM": (3.0,), FLASH: (2.125,), "SOLO 4/2": (0.84,),
        "lpmm 4-bit": (1.0,), LOG8: (2.0625,),
    },
)  # fmt: skip
