"""Multi-level training: a V-cycle over sizes of a model, as multigrid does it over grids.

Paper: Zou, Zhang, Deng, "A Multi-Level Framework for Accelerating Training Transformer Models", ICLR 2024,
arXiv:2404.07999.

Mechanism. A large model is coalesced into one of half the width and depth, which trains at a fraction of the cost; what
it learned is de-coalesced into the large size and interpolated with the weights the large one had before::

    coalesce      mean of each pair of outputs, sum of each pair of inputs; mean of two layers
    de-coalesce   copies of outputs, halves of inputs, so that the function is kept by width; copies of layers
    interpolate   θ ← (1 - α) θ_large + α · decoalesce(θ_small)

:mod:`~narrowgauge.methods.multilevel.maps` has the formulas of a tensor,
:mod:`~narrowgauge.methods.multilevel.llama` those of a model, :mod:`~narrowgauge.methods.multilevel.cycle` the phases.

Chosen here: units are paired in halves (``i`` with ``i + n/2``), layers adjacent or in halves. Where embedding and head
are one matrix, the authors' code rescales it around the cycle; here the last normalisation's gain takes the factor,
which is exact. Large weights are those saved on the way down, as the paper says.
"""

from typing import ClassVar

from narrowgauge.methods.multilevel.cycle import Train, VCycle, Visit
from narrowgauge.methods.multilevel.experiment import EXPERIMENT
from narrowgauge.methods.multilevel.flops import matrix_weights, training_flops
from narrowgauge.methods.multilevel.llama import Depth, coalesce, coalesced_config, decoalesce, interpolate_
from narrowgauge.methods.multilevel.maps import Axis, coalesce_tensor, decoalesce_tensor
from narrowgauge.train import Experiment, Procedure, register

__all__ = [
    "Axis",
    "Depth",
    "Multilevel",
    "Train",
    "VCycle",
    "Visit",
    "coalesce",
    "coalesce_tensor",
    "coalesced_config",
    "decoalesce",
    "decoalesce_tensor",
    "interpolate_",
    "matrix_weights",
    "training_flops",
]


@register
class Multilevel(Procedure):
    """See :class:`VCycle`."""

    name = "multilevel"
    summary = "train a model of half the size in between, then put its weights into the large one"
    paper = "A Multi-Level Framework for Accelerating Training Transformer Models (ICLR 2024)"
    arxiv = "2404.07999"
    usage = "VCycle(down=(32,), bottom=160, up=(264,)).run(model, lambda model, visit: trainer(model).fit(visit.steps))"
    hooks: ClassVar[tuple[str, ...]] = ("surgery", "phases")

    @classmethod
    def experiment(cls) -> Experiment:
        """Validation loss of the V-cycle against training from scratch at equal operations."""
        return EXPERIMENT
