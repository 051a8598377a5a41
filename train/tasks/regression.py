"""Linear regression with ill-conditioned inputs: ``y = x · w + noise``.

``x = z · diag(s) · Q`` with ``z`` standard normal, ``Q`` a rotation, and squared scales ``s²`` spaced evenly on a
logarithmic axis from 1 down to ``1 / condition``. The Hessian of the squared error is then ``Qᵀ diag(s²) Q``:
gradient descent needs some ``condition`` steps, and no coordinate-wise scaling undoes the rotation. A workload for
comparing optimizers (AlgoPerf, arXiv 2306.07179).
"""

import numpy as np
import torch

from narrowgauge.train.tasks.tensors import TensorExamples, normal


def ill_conditioned_regression(
    count: int, *, seed: int, num_features: int = 16, condition: float = 1e4, noise: float = 0.01
) -> TensorExamples:
    """``count`` inputs [num_features] float32 and their values; each direction adds as much to the values' variance.

    ``noise`` is the standard deviation of what no model can explain; a model that answers 0 has an error of about
    1 + noise².
    """
    if count < 1 or num_features < 2:
        raise ValueError(f"count, num_features: expected at least 1 and 2, got {count} and {num_features}")
    if not condition >= 1 or not noise >= 0:
        raise ValueError(f"condition, noise: expected at least 1 and 0, got {condition} and {noise}")
    scales = condition ** (-np.linspace(0, 0.5, num_features))
    rotation, _ = np.linalg.qr(normal((num_features, num_features), seed, "regression: rotation"))
    z = normal((count, num_features), seed, "regression: inputs")
    signs = np.sign(normal((num_features,), seed, "regression: signs"))
    values = z @ signs / np.sqrt(num_features) + noise * normal((count,), seed, "regression: noise")
    inputs = (z * scales) @ rotation
    return TensorExamples(
        torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(values.astype(np.float32))[:, None]
    )
