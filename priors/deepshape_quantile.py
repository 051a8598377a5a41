"""Reshaping weights to a generalized Gaussian by the ranks of their magnitudes: ours, without the traps of the
published DeepShape (arXiv 2506.00486).

    y_i = sign(w_i) · c · Q(r_i / N),   r_i the middle rank of |w_i| among all N magnitudes

Q is the quantile function of the magnitude of GG(ν', 1), ν' = shape_scale · ν with ν fitted to all weights, and c makes
sqrt(mean y²) = std_scale · sqrt(mean w²). No grid, no cut, no left-overs: tails are reshaped like the rest, equal
weights stay equal, signs and zeros stay, order stays, and std_scale is what it says.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from narrowgauge.priors.deepshape_published import Reshaped
from narrowgauge.priors.fit import fit
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian

_NODES = 8192
"""Exact quantiles on either side of the median; ranks between them are interpolated (relative error about 1e-6)."""


def reshape_quantile(x: Tensor, shape_scale: float, std_scale: float) -> Reshaped:
    """The map on a flat sample of finite numbers that are not all zero."""
    fitted = fit(x)
    wide = x.double()
    _, place, counts = torch.unique(wide.abs(), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - 0.5 * counts).cpu().numpy()
    shape = shape_scale * fitted.shape
    steps = torch.from_numpy(_magnitude_quantiles(ranks, x.numel(), shape)).to(x.device)
    values = steps[place] * wide.sign()
    rms = math.sqrt(float(wide.square().mean()))
    values *= std_scale * rms / math.sqrt(float(values.square().mean()))
    return Reshaped(values, fitted, GeneralizedGaussian.from_std(shape, std_scale * rms))


def _magnitude_quantiles(ranks: NDArray[np.float64], count: int, shape: float) -> NDArray[np.float64]:
    """Q(rank / count) of GG(shape, std 1), for ascending ranks in [0.5, count - 0.5]."""
    lower = np.geomspace(0.5, count / 2, _NODES)
    nodes = np.concatenate([lower, count - lower[-2::-1]]) if count > 1 else np.array([0.5])
    # The lower half of the distribution mirrors the magnitudes, and is exact in its far end.
    outside = np.concatenate([count - lower, lower[-2::-1]]) if count > 1 else np.array([0.5])
    exact = -GeneralizedGaussian.from_std(shape, 1.0).quantile(0.5 * outside / count)
    return np.interp(ranks, nodes, exact)
