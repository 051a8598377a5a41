"""TL-Training: supervised fine-tuning and rewards for the use of tools.

Paper: Ye et al., "TL-Training: A Task-Feature-Based Framework for Training Large Language Models in Tool Use", EMNLP
2025 Findings, arXiv:2412.15495.

Mechanism, in three parts:

Masking of adverse effects (:mod:`~narrowgauge.methods.tl_training.samples`)
    A call that was answered by an error is never a target, though it stays in the context of the calls after it.
Priority of key tokens (:mod:`~narrowgauge.methods.tl_training.key_tokens`, ``weights``)
    The tokens at which the tool's name is decided weigh ``w = min(n_other / n_pre, 9)``, at least 1::

        L = (w · Σ_pre ce + Σ_para ce + Σ_other ce) / (w · n_pre + n_para + n_other)

Rewards by fault (:mod:`~narrowgauge.methods.tl_training.reward`)
    From -2 (no call) to 1 (the right call), for :class:`~narrowgauge.train.rl.PPO`; the paper has KL 0.3 … 0.4, clip
    0.2, learning rates of some 1e-7.

Where this implementation chooses: what an error is, is a predicate that the user may replace; the release compares
with a list of phrases, which also drops good calls whose results hold one. The release's loss takes one sample a batch;
here a row's weights sum to its number of tokens, so that batches, accumulation and several processes give the mean of
the samples' losses, each weighted by its tokens. Key positions are by token, here bytes, and may be capped. Calls are
parsed as Python, with either kind of quotes.
"""

from narrowgauge.methods.tl_training.calls import ParsedCall, parse
from narrowgauge.methods.tl_training.key_tokens import IGNORED, OTHER, PARA, PRE, classes, name_positions, value_ends
from narrowgauge.methods.tl_training.method import TLTraining, weighted_cross_entropy
from narrowgauge.methods.tl_training.reward import call_reward, reward_of
from narrowgauge.methods.tl_training.samples import ERROR_PHRASES, Sample, looks_like_error, samples
from narrowgauge.methods.tl_training.source import batch_of_samples, tool_source
from narrowgauge.methods.tl_training.weights import key_weight, loss_weights

__all__ = [
    "ERROR_PHRASES",
    "IGNORED",
    "OTHER",
    "PARA",
    "PRE",
    "ParsedCall",
    "Sample",
    "TLTraining",
    "batch_of_samples",
    "call_reward",
    "classes",
    "key_weight",
    "looks_like_error",
    "loss_weights",
    "name_positions",
    "parse",
    "reward_of",
    "samples",
    "tool_source",
    "value_ends",
    "weighted_cross_entropy",
]
