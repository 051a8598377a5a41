"""Benchmarking training algorithms by the time they need to get as good as asked.

Paper: Dahl, Schneider, Nado et al., "Benchmarking Neural Network Training Algorithms" (AlgoPerf), arXiv:2306.07179.

A submission is a training algorithm with a space of hyperparameters and no look-up by workload; a workload is a model,
data, a metric and a target. A submission's time on a workload is the median over studies of its fastest trial's time
to the target, infinite where it is missed::

    r[s, w] = t[s, w] / min_s t[s, w]                     B_s = mean over w of max(0, (r_max - r[s, w]) / (r_max - 1))

``B`` is the area below the performance profile, the share of workloads solved within ``tau`` times the fastest time,
for ``tau`` from 1 to ``r_max`` = 4, normalised to 1. Evaluation does not count as time; time-outs, numbers that are not
finite and memory that is used up are misses. A target is what the best of four baselines reaches in the median over
seeds within three quarters of the steps.

The paper runs 5 studies of 20 trials on fixed hardware and scores test time at the fastest validation; version 0.6 of
its rules 3 studies of 5, by validation alone and without held-out variants. Here it is validation; ``gated`` has the
variants. Any method of this package can be a submission: a ``Training`` takes a list of them.

Files: ``scoring`` (pure), ``tuning``, ``submissions``, ``workloads``, ``harness``.
"""

from narrowgauge.methods.algoperf.experiment import build
from narrowgauge.methods.algoperf.harness import Outcome, find_target, run_benchmark, run_trial
from narrowgauge.methods.algoperf.scoring import (
    Trial,
    gated,
    performance_profile,
    ratios,
    score,
    scores,
    times_to_target,
)
from narrowgauge.methods.algoperf.submissions import Submission, Training
from narrowgauge.methods.algoperf.tuning import Span, quasi_random
from narrowgauge.methods.algoperf.workloads import Workload, all_workloads
from narrowgauge.train import Experiment, Procedure, register

__all__ = [
    "AlgoPerf",
    "Outcome",
    "Span",
    "Submission",
    "Training",
    "Trial",
    "Workload",
    "all_workloads",
    "find_target",
    "gated",
    "performance_profile",
    "quasi_random",
    "ratios",
    "run_benchmark",
    "run_trial",
    "score",
    "scores",
    "times_to_target",
]


@register
class AlgoPerf(Procedure):
    """Time to a target, performance profiles, and one score for each training algorithm."""

    name = "algoperf"
    summary = "benchmark training algorithms by the time to a target: performance profiles and scores"
    paper = "Benchmarking Neural Network Training Algorithms"
    arxiv = "2306.07179"
    hooks = ("evaluation", "fit")
    usage = (
        "from narrowgauge.methods.algoperf import all_workloads, run_benchmark, scores, times_to_target\n"
        "outcomes = run_benchmark(all_workloads(), submissions, studies=3, trials=5, seed=0)\n"
        "scores(times_to_target(outcome.trial() for outcome in outcomes))"
    )

    @classmethod
    def experiment(cls) -> Experiment:
        """AdamW, NAdamW, gradient descent and a broken submission on four small workloads."""
        return build()
