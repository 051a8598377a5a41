"""SPES, sparse expert synchronisation: decentralised pre-training of a mixture of experts.

Paper: Zhang, Xiao, Wu, Zhang, Zhang, "Pretraining A Large Language Model using Distributed GPUs: A Memory-Efficient
Decentralized Paradigm", arXiv:2602.11543.

Mechanism. N nodes hold the whole model for the forward pass, and each owns M / N of the M experts. A node computes
gradients and keeps optimizer states only for the shared weights and its own experts. After H local steps (50 … 100)::

    shared ← mean over the nodes (float32)      expert e ← its owner's copy      optimizer states stay local

so that a node sends the shared weights and M / N experts, and receives the shared weights and the other experts. Two
additions for the beginning: similar experts are merged a little (:mod:`.merging`), and the balance loss steers a node's
tokens to its own experts (:mod:`.steering`). Memory is saved for gradients and states, not for weights.

The paper does not describe the steering; it is in the authors' script, which has 0.7 and H = 100. Here it is off unless
asked for: at the size of the experiment it makes no difference, and does harm at a lower rate. The cosine that makes
neighbours is of the experts' first matrices alone, there and here. The router is shared and averaged.
"""

from narrowgauge.methods.spes.exchange import Traffic, exchange_all, exchange_experts, exchange_with_group, traffic
from narrowgauge.methods.spes.merging import Merging, merge_experts, merged, nearest, similarity
from narrowgauge.methods.spes.ownership import Ownership, keep_to_own, parameter_experts
from narrowgauge.methods.spes.procedure import SPES
from narrowgauge.methods.spes.steering import SteeredRouterLoss

__all__ = [
    "SPES",
    "Merging",
    "Ownership",
    "SteeredRouterLoss",
    "Traffic",
    "exchange_all",
    "exchange_experts",
    "exchange_with_group",
    "keep_to_own",
    "merge_experts",
    "merged",
    "nearest",
    "parameter_experts",
    "similarity",
    "traffic",
]
