"""SGFT, solution guidance fine-tuning: one model writes what is to be done, another one does it.

Paper: Bi et al., "Enhancing the Reasoning Capabilities of Small Language Models via Solution Guidance
Fine-Tuning", COLING 2025, arXiv:2412.09906.

Mechanism. Understanding a question and computing its answer are split::

    guide:   question → guidance      fine-tuned on few samples
    solver:  question, guidance → answer      frozen, greedy

A guidance has 2 … 6 steps that take the question apart, with no arithmetic and no result; samples that break this are
dropped (:mod:`~narrowgauge.methods.sgft.guidance`). The guide is trained with
:class:`~narrowgauge.methods.sgft.lisa.LISA`, or in full. :mod:`~narrowgauge.methods.sgft.pipeline` runs both models.

Phases: make guidances of questions (the paper has a large model write them), ``guidance_examples`` drops what is none,
an ordinary :class:`~narrowgauge.train.Trainer` trains the guide on them, ``GuidedSolver`` puts it in front of the
solver. The paper's solver is a general model that was never tuned; a solver too small to read guidances has to be
trained for that before. The authors' prompts and rules of cleaning are not published; those here follow the text.
"""

from typing import ClassVar

from narrowgauge.methods.sgft.experiment import EXPERIMENT
from narrowgauge.methods.sgft.guidance import GuidanceCheck, Guidances, Verdict, guidance_examples, lines
from narrowgauge.methods.sgft.lisa import LISA
from narrowgauge.methods.sgft.pipeline import GuidedSolver, Solution, question_then_guidance
from narrowgauge.train import Experiment, Procedure, register

__all__ = [
    "LISA",
    "SGFT",
    "GuidanceCheck",
    "Guidances",
    "GuidedSolver",
    "Solution",
    "Verdict",
    "guidance_examples",
    "lines",
    "question_then_guidance",
]


@register
class SGFT(Procedure):
    """See :func:`guidance_examples`, :class:`GuidedSolver` and :class:`LISA`."""

    name = "sgft"
    summary = "fine-tune a small guide to write what has to be done; a frozen solver does it"
    paper = (
        "Enhancing the Reasoning Capabilities of Small Language Models via Solution Guidance Fine-Tuning (COLING 2025)"
    )
    arxiv = "2412.09906"
    usage = (
        "examples = guidance_examples(pairs).examples\n"
        "Trainer(guide, TaskSource(examples, …), optimizer, methods=[LISA(active=2)]).fit(500)\n"
        "GuidedSolver(guide, solver, guidance_tokens=200, solution_tokens=200)(questions)"
    )
    hooks: ClassVar[tuple[str, ...]] = ("phases", "evaluation")

    @classmethod
    def experiment(cls) -> Experiment:
        """Guide and solver against one model, with and without a chain of thought."""
        return EXPERIMENT
