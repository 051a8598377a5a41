"""What distribution weights follow, and starting them from it: the generalized Gaussian.

Source: "It Takes a Good Model to Train a Good Model" (arXiv 2506.00486) and "BackSlash" (arXiv 2504.16968).
"""

from narrowgauge.priors.backslash import BackSlash
from narrowgauge.priors.deepshape import DeepShapeMethod, DeepShapeReport, deepshape, deepshape_
from narrowgauge.priors.fit import FitMethod, fit, moment_ratio, shape_from_ratio
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian
from narrowgauge.priors.goodness import Comparison, Goodness, compare
from narrowgauge.priors.init import Fan, InitMode, Scope, init_, xi_for
from narrowgauge.priors.layer_report import ModelReport, report_model
from narrowgauge.priors.prune import Masks, prune_
from narrowgauge.priors.rate import Rate, measure_rate
from narrowgauge.priors.rf8_cast import CastError, rf8_bias, rf8_cast
from narrowgauge.priors.rf8_compare import compare_formats
from narrowgauge.priors.row_fits import RowFits, fit_layers, fit_rows
from narrowgauge.priors.strength import Cosine, LinearWarmup, Until, scaled_strength
from narrowgauge.priors.torch_init import gg_kaiming_, gg_xavier_
from narrowgauge.priors.trade_off import TradeOffPoint, plot_trade_off, trade_off

__all__ = [
    "BackSlash",
    "CastError",
    "Comparison",
    "Cosine",
    "DeepShapeMethod",
    "DeepShapeReport",
    "Fan",
    "FitMethod",
    "GeneralizedGaussian",
    "Goodness",
    "InitMode",
    "LinearWarmup",
    "Masks",
    "ModelReport",
    "Rate",
    "RowFits",
    "Scope",
    "TradeOffPoint",
    "Until",
    "compare",
    "compare_formats",
    "deepshape",
    "deepshape_",
    "fit",
    "fit_layers",
    "fit_rows",
    "gg_kaiming_",
    "gg_xavier_",
    "init_",
    "measure_rate",
    "moment_ratio",
    "plot_trade_off",
    "prune_",
    "report_model",
    "rf8_bias",
    "rf8_cast",
    "scaled_strength",
    "shape_from_ratio",
    "trade_off",
    "xi_for",
]
