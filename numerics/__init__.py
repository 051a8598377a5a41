"""How error is measured: metrics, bounds and checks, and the hard inputs that they are tried on.

A public name is loaded on first use: the pytest plugin, which every test run of an environment imports, brings in
neither numpy nor torch. A new one stands in three places: the imports for type checkers, `__all__` and `_HOMES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from narrowgauge._lazy import on_first_use

if TYPE_CHECKING:
    from narrowgauge.numerics.assertions import assert_close_to_format
    from narrowgauge.numerics.cases import Distribution, distribution, distribution_help, hard_cases
    from narrowgauge.numerics.check import assert_bitwise, assert_within, gamma, gemm_bound
    from narrowgauge.numerics.check_report import CheckReport, Failure
    from narrowgauge.numerics.errors.measure import compare
    from narrowgauge.numerics.errors.report import ErrorReport
    from narrowgauge.numerics.gemms.check import check_gemm
    from narrowgauge.numerics.metrics import (
        bias,
        cosine_similarity,
        gain,
        max_relative_error,
        nmse,
        relative_rms,
        sqnr_db,
    )
    from narrowgauge.numerics.modules.check import check_module
    from narrowgauge.numerics.monitors.monitor import TensorMonitor
    from narrowgauge.numerics.optimizers.check import check_optimizer
    from narrowgauge.numerics.quantizers.check import assert_quantizer, check_quantizer
    from narrowgauge.numerics.quantizers.differences import DiffReport, diff
    from narrowgauge.numerics.quantizers.implementations import register_implementation
    from narrowgauge.numerics.sweeps.report import report
    from narrowgauge.numerics.sweeps.result import SweepResult
    from narrowgauge.numerics.sweeps.run import sweep
    from narrowgauge.numerics.tensors.sources import (
        NamedTensor,
        TensorInfo,
        TensorSource,
        from_arrays,
        from_checkpoint,
        from_distributions,
        from_model,
    )

__all__ = [
    "CheckReport",
    "DiffReport",
    "Distribution",
    "ErrorReport",
    "Failure",
    "NamedTensor",
    "SweepResult",
    "TensorInfo",
    "TensorMonitor",
    "TensorSource",
    "assert_bitwise",
    "assert_close_to_format",
    "assert_quantizer",
    "assert_within",
    "bias",
    "check_gemm",
    "check_module",
    "check_optimizer",
    "check_quantizer",
    "compare",
    "cosine_similarity",
    "diff",
    "distribution",
    "distribution_help",
    "from_arrays",
    "from_checkpoint",
    "from_distributions",
    "from_model",
    "gain",
    "gamma",
    "gemm_bound",
    "hard_cases",
    "max_relative_error",
    "nmse",
    "register_implementation",
    "relative_rms",
    "report",
    "sqnr_db",
    "sweep",
]

# The file that defines each name.
_HOMES = {
    "assert_close_to_format": "assertions",
    **dict.fromkeys(("Distribution", "distribution", "distribution_help", "hard_cases"), "cases"),
    **dict.fromkeys(("assert_bitwise", "assert_within", "gamma", "gemm_bound"), "check"),
    **dict.fromkeys(("CheckReport", "Failure"), "check_report"),
    "compare": "errors.measure",
    "ErrorReport": "errors.report",
    "check_gemm": "gemms.check",
    **dict.fromkeys(
        ("bias", "cosine_similarity", "gain", "max_relative_error", "nmse", "relative_rms", "sqnr_db"), "metrics"
    ),
    "check_module": "modules.check",
    "TensorMonitor": "monitors.monitor",
    "check_optimizer": "optimizers.check",
    **dict.fromkeys(("assert_quantizer", "check_quantizer"), "quantizers.check"),
    **dict.fromkeys(("DiffReport", "diff"), "quantizers.differences"),
    "register_implementation": "quantizers.implementations",
    "sweep": "sweeps.run",
    "report": "sweeps.report",
    "SweepResult": "sweeps.result",
    **dict.fromkeys(
        (
            "NamedTensor",
            "TensorInfo",
            "TensorSource",
            "from_arrays",
            "from_checkpoint",
            "from_distributions",
            "from_model",
        ),
        "tensors.sources",
    ),
}

# Hidden from type checkers, which would otherwise believe that every name exists.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()}, __all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
