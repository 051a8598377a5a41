"""Pre-training with little text and as much compute as one likes.

Paper: Kim, Kotha, Liang, Hashimoto, "Pre-training under infinite compute", ICLR 2026, arXiv:2509.14786.

A recipe is judged by where its power law ends, not by its loss at some compute. The pieces, a file each:

``descent``
    Tunes learning rate, epochs and weight decay together on a grid of powers of two, up to a certificate. The best
    decoupled weight decay is some 30 times the usual 0.1 there; with it the loss falls with the model's size.
``ensemble``
    ``K`` models of different initial weights and order of the data; the mean of their logits.
``power_law``, ``limits``
    ``L = A / x^a + E`` by variable projection; the limits of many members, large models, both; data efficiency.
``mixture``
    A student reads what the teacher wrote, mixed with the real text, with weight decay 0.1 again.

The paper has 200 M tokens and models of 150 M to 1.4 B parameters; regularised models end at 3.43, ensembles of
300 M at 3.34, both limits together at 3.17, worth 5.17 times the data; an 8-member ensemble's student keeps 83 % of
the gain.
"""

from narrowgauge.methods.infinite_compute.descent import Descent, coordinate_descent
from narrowgauge.methods.infinite_compute.ensemble import Ensemble
from narrowgauge.methods.infinite_compute.experiment import build
from narrowgauge.methods.infinite_compute.limits import JointLimit, data_efficiency, joint_limit
from narrowgauge.methods.infinite_compute.mixture import MixedStream, sample_windows, student_steps
from narrowgauge.methods.infinite_compute.power_law import PowerLaw, PowerLawFit, fit_power_law, is_falling
from narrowgauge.train import Experiment, Procedure, register

__all__ = [
    "Descent",
    "Ensemble",
    "InfiniteCompute",
    "JointLimit",
    "MixedStream",
    "PowerLaw",
    "PowerLawFit",
    "coordinate_descent",
    "data_efficiency",
    "fit_power_law",
    "is_falling",
    "joint_limit",
    "sample_windows",
    "student_steps",
]


@register
class InfiniteCompute(Procedure):
    """Regularise, train members, average their logits, fit where that ends, distil."""

    name = "infinite_compute"
    summary = "strong weight decay, ensembles, asymptote fits and distillation where text is scarce"
    paper = "Pre-training under infinite compute (ICLR 2026)"
    arxiv = "2509.14786"
    hooks = ("phases", "source", "evaluation", "fit")
    usage = (
        "from narrowgauge.methods.infinite_compute import Ensemble, fit_power_law\n"
        "fit_power_law([1, 2, 3, 4], [evaluate(Ensemble(members[:k])) for k in (1, 2, 3, 4)]).law.asymptote"
    )

    @classmethod
    def experiment(cls) -> Experiment:
        """Weight decay, members and a student on 17 KB of text."""
        return build()
