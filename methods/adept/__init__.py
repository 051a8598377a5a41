"""ADEPT: continual pre-training that grows the model where general competence needs it least.

Paper: Zhang, Fang, Ding, Liao, Ye, Chu, Zhao, Wang, "ADEPT: Continual Pretraining via Adaptive Expansion and Dynamic
Decoupled Tuning", ICLR 2026, arXiv:2510.10071.

Stage 1, where to grow. With ``P`` a probe set of general text, for each block ``l``::

    I_l = L(model with block l as the identity; P) - L(model; P)

Behind each of the k blocks with the lowest ``I`` goes a copy of it with zeros for the attention's output projection and
the MLP's down projection: a block before whose halves the stream is normalised then adds nothing, and no logit moves.
Everything that was there is frozen; only copies train.

Stage 2, how fast each part learns. Each tensor U of the copies is a unit, and every R steps, on fresh probe batches::

    I_U = mean_j |θ_j ∂L/∂θ_j|,   Ĩ_U = (I_U - min) / (max - min),   lr_U = 2 (1 - Ĩ_U) · lr

In a fresh copy every product θ · ∂L/∂θ is 0, as either the weight or the gradient is. So rates are set after R steps
for the first time, and are 1 before that, as they are when all units are equally important. The paper takes the range
over all units at once; ``ranges="kinds"`` keeps norms and matrices apart, as a variant in the authors' code does.
"""

from narrowgauge.methods.adept.blocks import block_list, insert_copies, neutral_copy
from narrowgauge.methods.adept.importance import block_importance, rate_scales, unit_importance
from narrowgauge.methods.adept.method import ADEPT, Probe, text_probe

__all__ = [
    "ADEPT",
    "Probe",
    "block_importance",
    "block_list",
    "insert_copies",
    "neutral_copy",
    "rate_scales",
    "text_probe",
    "unit_importance",
]
