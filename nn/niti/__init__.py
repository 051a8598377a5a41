"""NITI: training with integers alone, from the input to the update (Wang et al., arXiv 2009.13108).

x = IntTensor(codes, exponent)                  a value is code · 2^exponent
model = NITISequential(NITILinear(784, 64), NITIReLU(), NITILinear(64, 10))
y = model(x)
model.backward(loss_gradient(y, labels))        gradients flow and weights move; no float between input and update
"""

from __future__ import annotations

from narrowgauge.nn.niti.layers import NITILinear, NITIReLU, NITISequential
from narrowgauge.nn.niti.loss import loss_gradient
from narrowgauge.nn.niti.shift import pseudo_stochastic_shift, requantize
from narrowgauge.nn.niti.tensor import IntTensor, to_int_tensor

__all__ = [
    "IntTensor",
    "NITILinear",
    "NITIReLU",
    "NITISequential",
    "loss_gradient",
    "pseudo_stochastic_shift",
    "requantize",
    "to_int_tensor",
]
