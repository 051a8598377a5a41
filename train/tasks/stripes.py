"""Images of stripes in four directions, for convolutional classifiers.

An image is ``sin(2π · (x · a + y · b) / 4 + phase)`` plus noise, with (a, b) = (1, 0), (0, 1), (1, 1) or (1, -1) for
the classes 0 … 3 and a random phase. No pixel alone tells the class, a filter of 3 by 3 does.
"""

import math

import numpy as np
import torch

from narrowgauge.train.tasks.tensors import TensorExamples, normal, uniform

DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1))


def stripes(count: int, *, seed: int, size: int = 8, noise: float = 0.5) -> TensorExamples:
    """``count`` images [1, size, size] float32, noise of standard deviation ``noise``; the classes in turn."""
    if count < 1 or size < 3:
        raise ValueError(f"count, size: expected at least 1 and 3, got {count} and {size}")
    if not noise >= 0:
        raise ValueError(f"noise: expected 0 or more, got {noise}")
    labels = np.arange(count) % len(DIRECTIONS)
    direction = np.array(DIRECTIONS)[labels]
    y, x = np.mgrid[:size, :size]
    ramp = direction[:, 0, None, None] * x + direction[:, 1, None, None] * y
    phase = 2 * math.pi * uniform((count, 1, 1), seed, "stripes: phase")
    images = np.sin(math.pi / 2 * ramp + phase) + noise * normal((count, size, size), seed, "stripes: noise")
    inputs = torch.from_numpy(images.astype(np.float32))[:, None]
    return TensorExamples(inputs, torch.from_numpy(labels.astype(np.int64))[:, None])
