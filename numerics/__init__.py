"""How error is measured: metrics, bounds and checks, and the hard inputs that they are tried on."""

from narrowgauge.numerics.cases import Distribution, distribution, hard_cases
from narrowgauge.numerics.check import assert_bitwise, assert_within, gamma, gemm_bound
from narrowgauge.numerics.metrics import (
    bias,
    cosine_similarity,
    gain,
    max_relative_error,
    nmse,
    relative_rms,
    sqnr_db,
)

__all__ = [
    "Distribution",
    "assert_bitwise",
    "assert_within",
    "bias",
    "cosine_similarity",
    "distribution",
    "gain",
    "gamma",
    "gemm_bound",
    "hard_cases",
    "max_relative_error",
    "nmse",
    "relative_rms",
    "sqnr_db",
]
