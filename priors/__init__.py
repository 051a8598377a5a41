"""What distribution weights follow, and starting them from it: the generalized Gaussian.

Source: "It Takes a Good Model to Train a Good Model" (arXiv 2506.00486) and "BackSlash" (arXiv 2504.16968).
"""

from narrowgauge.priors.fit import FitMethod, fit, moment_ratio, shape_from_ratio
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian
from narrowgauge.priors.init import Fan, InitMode, Scope, init_, xi_for

__all__ = [
    "Fan",
    "FitMethod",
    "GeneralizedGaussian",
    "InitMode",
    "Scope",
    "fit",
    "init_",
    "moment_ratio",
    "shape_from_ratio",
    "xi_for",
]
