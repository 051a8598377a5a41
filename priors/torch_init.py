"""`torch.nn.init` with generalized Gaussian numbers: the signatures of its functions, and `shape`.

    gg_xavier_     Var = gain² · 2 / (fan_in + fan_out)       Glorot and Bengio 2010, as nn.init.xavier_normal_
    gg_kaiming_    Var = gain² / fan                          He et al. 2015 (arXiv 1502.01852), as kaiming_normal_

The fans are those of torch: dimension 1 and dimension 0, times the kernel's size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian

FANS = ("fan_in", "fan_out")


def gg_xavier_(
    tensor: Tensor, gain: float = 1.0, generator: torch.Generator | None = None, *, shape: float = 2.0
) -> Tensor:
    """Fills `tensor` in place and returns it; a drop-in for `nn.init.xavier_normal_`, which it is in law at shape 2.

    shape: ν. ValueError for fewer than two dimensions, and for a gain that is not positive.
    """
    fan_in, fan_out = _fans(tensor)
    return _fill(tensor, shape, gain * math.sqrt(2.0 / (fan_in + fan_out)) if tensor.numel() else 0.0, generator)


def gg_kaiming_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
    *,
    shape: float = 2.0,
) -> Tensor:
    """Fills `tensor` in place and returns it; a drop-in for `nn.init.kaiming_normal_`, which it is in law at shape 2.

    a: slope of the leaky ReLU. mode: "fan_in" or "fan_out". nonlinearity: what `nn.init.calculate_gain` takes. shape:
    ν. ValueError for fewer than two dimensions, another mode or nonlinearity.
    """
    if mode not in FANS:
        raise ValueError(f"mode: got {mode!r}, accepted: {', '.join(FANS)}")
    gain = nn.init.calculate_gain(nonlinearity, a)  # type: ignore[arg-type]
    fan = _fans(tensor)[FANS.index(mode)]
    return _fill(tensor, shape, gain / math.sqrt(fan) if tensor.numel() else 0.0, generator)


def _fans(tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise ValueError(f"tensor: got shape {tuple(tensor.shape)}, accepted: two or more dimensions")
    kernel = math.prod(tensor.shape[2:])
    return tensor.shape[1] * kernel, tensor.shape[0] * kernel


@torch.no_grad()
def _fill(tensor: Tensor, shape: float, std: float, generator: torch.Generator | None) -> Tensor:
    if not tensor.numel():
        GeneralizedGaussian(shape, 1.0)  # refuses what is not a shape
        return tensor
    prior = GeneralizedGaussian.from_std(shape, std)
    tensor.copy_(prior.sample(tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype))
    return tensor
