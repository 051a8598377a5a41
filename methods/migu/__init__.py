"""MIGU, magnitude-based gradient updating: continual training without old data and without task labels.

Paper: Du, Cheng, Luo, Qiu, Huang, Cheung, Cheng, Fu, "Unlocking Continual Learning Abilities in Language Models", EMNLP
2024 Findings, arXiv:2406.17245.

Mechanism. Which output units of a linear layer answer strongly differs from task to task. For each linear layer with
output ``h``, over all tokens of one optimizer step, and with a threshold T (0.7)::

    n_i = Σ_tokens |h_i|
    kept_i = n_i is among the ⌈(1 - T) · N⌉ largest
    ∂L/∂W[i, :] = 0  and  ∂L/∂b[i] = 0    where not kept

from the second task on; the first one trains as usual. Tasks that use other units thus leave each other's weights
alone. Sums run over the micro-batches of a step and over the ranks; padding does not count.

Where paper, release and this implementation differ: the release takes an interpolated quantile, this one exactly the
largest units (more where the last place is tied); the release leaves biases unmasked and counts padding. A gradient of
zero is no update of zero: momentum and weight decay would still move the other units, so they are put back after the
optimizer's step. (An optimizer that keeps a wider copy of the weights of its own keeps its moves there.)
"""

from narrowgauge.methods.migu.capture import Capture
from narrowgauge.methods.migu.method import MIGU

__all__ = ["MIGU", "Capture"]
