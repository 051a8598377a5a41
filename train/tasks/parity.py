"""Parity of a few bits among many: ``[+1, -1, -1, …]`` → 0 or 1.

The label is the parity of ``num_relevant`` of the ``num_bits`` inputs, which ``seed`` chooses. No single input tells
anything of it, so a network stays at chance for a while and then falls all at once: a workload on which optimizers
differ (time-to-result benchmarks such as AlgoPerf, arXiv 2306.07179).
"""

import numpy as np
import torch

from narrowgauge.train.tasks.draws import Draws
from narrowgauge.train.tasks.tensors import TensorExamples, uniform


def parity(count: int, *, seed: int, num_bits: int = 12, num_relevant: int = 3) -> TensorExamples:
    """``count`` vectors [num_bits] of ±1, float32, and the class 1 where an odd number of the relevant ones is -1."""
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if not 1 <= num_relevant <= num_bits:
        raise ValueError(f"num_relevant: expected 1 … {num_bits}, got {num_relevant}")
    relevant = Draws(seed, "parity: relevant").distinct(range(num_bits), num_relevant)
    is_negative = uniform((count, num_bits), seed, "parity: bits") < 0.5
    labels = is_negative[:, relevant].sum(axis=1) % 2
    inputs = np.where(is_negative, -1.0, 1.0).astype(np.float32)
    return TensorExamples(torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.int64))[:, None])
