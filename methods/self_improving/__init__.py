"""Self-Improving Pretraining: what a judge prefers among original, rewrite and the model's own continuations.

Paper: Tan et al., "Self-Improving Pretraining: using post-trained models to pretrain better models", 2026,
arXiv:2601.21343.

Mechanism. Pre-training becomes the writing of a suffix after a prefix. Each document is cut into chunks of N = 128
tokens; chunk j is a suffix, all before it its prefix. Candidates of a prefix are the original suffix, a rewrite of it
by a post-trained model, and K continuations that the policy samples at temperature 1, N tokens each. A judge compares
all pairs for quality, in both orders, and judges safety or factuality of each by itself
(:mod:`~narrowgauge.methods.self_improving.judge`), which makes rewards ``r``. With ``c+`` the best, ``c-`` the worst::

    RF-NLL       L = -log π(c+ | prefix) / |c+|
    online DPO   L = -log sigmoid(beta · [(log π(c+) - log ref(c+)) - (log π(c-) - log ref(c-))])

Early on, originals and rewrites win; as the policy improves, its own continuations win more often: the ``chosen_rate``.
Prefixes whose candidates are all worth the same are left out of DPO. The judge decides everything: one that asks for
likelihood alone is satisfied by repetition, and the policy collapses onto it.

What the paper's text leaves open, and is chosen here: ``beta`` is 0.1 and the reference is the model of the run's
beginning; of equals the first counts (original, rewrite, rollouts); RF-NLL divides by the candidate's own length, as
rewrites may be shorter than N. Judge and rewriter are callables: in the paper post-trained models with prompts, in the
experiment programs and a small language model. The paper's training of the rewriter and its mid-training with thoughts
are not here.
"""

from dataclasses import dataclass

from narrowgauge.methods.self_improving.candidates import CandidateSource, Rewriter, prefixes_and_suffixes
from narrowgauge.methods.self_improving.experiment import self_improving_experiment
from narrowgauge.methods.self_improving.judge import (
    Judge,
    LanguageModelJudge,
    bytes_of,
    distinct_share,
    mean_logprobs,
    typicality,
    win_rates,
    wins_of_scores,
)
from narrowgauge.methods.self_improving.method import JudgedCandidates
from narrowgauge.train import Experiment, PublishedMethod, register

__all__ = [
    "CandidateSource",
    "Judge",
    "JudgedCandidates",
    "LanguageModelJudge",
    "Rewriter",
    "SelfImproving",
    "bytes_of",
    "distinct_share",
    "mean_logprobs",
    "prefixes_and_suffixes",
    "typicality",
    "win_rates",
    "wins_of_scores",
]


@register
@dataclass(eq=False)
class SelfImproving(JudgedCandidates, PublishedMethod):
    """See :class:`JudgedCandidates`."""

    name = "self_improving"
    summary = "train on what a judge prefers among the text, a rewrite, and the model's own continuations"
    paper = "Self-Improving Pretraining: using post-trained models to pretrain better models (2026)"
    arxiv = "2601.21343"
    usage = "Trainer(model, CandidateSource(prefixes_and_suffixes(text), judge, …), …, methods=[SelfImproving()])"

    @classmethod
    def experiment(cls) -> Experiment:
        """Marks, likelihood and variety of what the policy writes, for seven ways to train it."""
        return self_improving_experiment(cls)
