"""Train Long, Think Short: reinforcement learning under a token budget that shrinks.

Paper: Hammoud et al., "Train Long, Think Short: Curriculum Learning for Efficient Reasoning", 2025, arXiv:2508.08940.

Mechanism. Group relative policy optimization (:mod:`narrowgauge.train.rl.grpo`) on prompts that name a budget of ``L``
tokens. It is generous at first and cut on a schedule (:mod:`~narrowgauge.methods.think_short.schedule`)::

    L = B(t) = max(1, floor(B_0 · decay ** floor(t / interval)))

The reward of a completion of ``l`` tokens is a weighted sum of right answer, length and form::

    r = w_c · [right] + w_l · R(l; L) + w_f · [well formed]
    R(l; L) = l / L  (l <= L),   1 - (l - L) / L  (L < l <= 2 L),   0  (l > 2 L)

The triangle is 1 at ``L`` alone, so it also pays to *lengthen* what is shorter; the paper's other shape, the band, is 1
for all ``l <= L``. Beyond ``2 L`` both are flat: a cut has to keep the present length below ``2 L``, so ``decay`` above
1/2, and an interval long enough to catch up. And a budget below the shortest right answer is met all the same, where
length pays more than being right.

Where the paper leaves a choice: ``l`` counts the whole completion with its end, not the thinking part alone; ``t``
counts rounds of rollouts; ``eps`` stands outside the root of the variance in GRPO's advantages; budgets are rounded
down. Weights of the paper: (w_c, w_l) = (0.3, 0.6) or (0.6, 0.3), the rest for form; here ``w_l`` is this method's and
the others are the source's own. The budget in the prompt and in the reward is one number by construction.
"""

from dataclasses import dataclass

from narrowgauge.methods.think_short.experiment import think_short_experiment
from narrowgauge.methods.think_short.method import Budgeted, ThinkShortGRPO, in_words, length_in_tokens
from narrowgauge.methods.think_short.schedule import ExponentialBudget, LinearBudget, decay_to
from narrowgauge.train import Experiment, PublishedMethod, register

__all__ = [
    "Budgeted",
    "ExponentialBudget",
    "LinearBudget",
    "ThinkShort",
    "ThinkShortGRPO",
    "decay_to",
    "in_words",
    "length_in_tokens",
]


@register
@dataclass(eq=False)
class ThinkShort(ThinkShortGRPO, PublishedMethod):
    """See :class:`ThinkShortGRPO`."""

    name = "think_short"
    summary = "GRPO under a token budget that shrinks, named in the prompt and paid for by a triangle"
    paper = "Train Long, Think Short: Curriculum Learning for Efficient Reasoning (2025)"
    arxiv = "2508.08940"
    usage = "Trainer(model, RolloutSource(…), …, methods=[ThinkShort(schedule=ExponentialBudget(256, 0.7, 150))])"

    @classmethod
    def experiment(cls) -> Experiment:
        """Length and accuracy under the curriculum, a fixed budget, no length reward, and two budgets that fail."""
        return think_short_experiment(cls)
