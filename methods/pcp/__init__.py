"""Prompt-based continued pre-training (PCP): pre-train on the task's texts in the task's template, with pseudo labels.

Paper: Shi and Lipani, "Don't Stop Pretraining? Make Prompt-based Fine-tuning Powerful Learner", NeurIPS 2023,
arXiv:2305.01711.

Mechanism. Few texts have a label, many have none. A prompt asks for the class as a word in a template
(:mod:`~narrowgauge.methods.pcp.template`). With a language model ``M``::

    1  M_1 = fine-tune(M, few labelled texts in the template, loss on the word)
    2  ŷ_i = argmax_c p_{M_1}(word_c | text_i in the template)                      pseudo labels
    3  corpus = { text_i in the template with word ŷ_i }
    4  M_2 = pre-train(M, corpus, the model's own objective on every token)         from M, not from M_1
    5  M_3 = fine-tune(M_2, the few labelled texts, as in 1)                        the classifier

against conventional continued pre-training ("TAPT"), which does 4 on the raw texts. Template and words are the same to
the byte in all phases, each phase has a fresh optimizer, and no pseudo label is filtered out, as in the authors' code.
The paper's models are masked language models (15 % of all tokens masked, template and word included); here the
objective is a causal model's, next-token prediction on text, template and word.
"""

from narrowgauge.methods.pcp.classifier import histogram, predict
from narrowgauge.methods.pcp.experiment import pcp_experiment
from narrowgauge.methods.pcp.method import Outcome, Phases
from narrowgauge.methods.pcp.rows import Row, build_corpus, raw_corpus, row_stream, tuning_rows
from narrowgauge.methods.pcp.template import Prompt, Text
from narrowgauge.train import Experiment, Procedure, register

__all__ = [
    "PCP",
    "Outcome",
    "Phases",
    "Prompt",
    "Row",
    "Text",
    "build_corpus",
    "histogram",
    "predict",
    "raw_corpus",
    "row_stream",
    "tuning_rows",
]


@register
class PCP(Procedure):
    """See :class:`Phases`."""

    name = "pcp"
    summary = "continue pre-training on the task's texts in its template, filled with pseudo labels"
    paper = "Don't Stop Pretraining? Make Prompt-based Fine-tuning Powerful Learner (NeurIPS 2023)"
    arxiv = "2305.01711"
    usage = "Phases(Prompt(words=(b'bad', b'top'))).run(model, few_texts, labels, many_texts, fit).classifier"
    hooks = ("phases", "source")

    @classmethod
    def experiment(cls) -> Experiment:
        """Accuracy of a prompt after continued pre-training on templates, raw text and shuffled labels."""
        return pcp_experiment()
