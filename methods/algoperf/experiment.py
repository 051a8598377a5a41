"""A small benchmark: four submissions, four workloads, a few trials."""

import math

from narrowgauge.methods.algoperf.harness import Outcome, run_benchmark
from narrowgauge.methods.algoperf.scoring import Times, ratios, scores, times_to_target
from narrowgauge.methods.algoperf.submissions import adamw, broken, nadamw, nesterov
from narrowgauge.methods.algoperf.workloads import all_workloads
from narrowgauge.train import Claim, Context, Experiment

STUDIES, TRIALS = 2, 3

SETTING = (
    "AdamW, AdamW with Nesterov's momentum, stochastic gradient descent with Nesterov's momentum, and AdamW with rates"
    " a thousand times too small, each with a space of learning rates; next byte of a text, parity, copying, and an"
    " ill-conditioned regression, 240 to 400 steps each at most. 2 studies of 3 points; time is counted in steps."
)


def compare(context: Context) -> dict[str, float]:
    """Scores of all submissions over all workloads, and on each workload alone."""
    workloads = [workload.shortened(context.steps(workload.steps)) for workload in all_workloads()]
    submissions = [adamw(context.state), nadamw(), nesterov(), broken()]
    outcomes = run_benchmark(
        workloads,
        submissions,
        studies=context.count(STUDIES),
        trials=context.count(TRIALS),
        seed=context.seed,
        prepare=context.prepare,
        begin=context.begin,
    )
    by_steps = times_to_target(outcome.trial() for outcome in outcomes)
    total, relative = scores(by_steps), ratios(by_steps)
    values: dict[str, float] = {}
    for name, by_workload in by_steps.items():
        values[name] = total[name]
        values[f"{name}: targets reached"] = sum(math.isfinite(time) for time in by_workload.values())
        for workload in by_workload:
            values[f"{name}: {workload}"] = max(0.0, (4 - relative[name][workload]) / 3)
    return values | {"places that differ by wall time": float(_num_moved(by_steps, outcomes))}


def _num_moved(by_steps: Times, outcomes: list[Outcome]) -> int:
    """How many submissions have another place when the time is counted in seconds; equal scores share a place."""
    tables = scores(by_steps), scores(times_to_target(outcome.trial("seconds") for outcome in outcomes))
    places = [{name: sum(other > own for other in table.values()) for name, own in table.items()} for table in tables]
    return sum(places[0][name] != places[1][name] for name in places[0])


def build() -> Experiment:
    """The experiment with its claims."""
    return Experiment(
        setting=SETTING,
        claims=(
            Claim("on text, AdamW scores higher than gradient descent", "adamw: text", "nesterov: text", "higher"),
            Claim("on text, NAdamW scores higher than gradient descent", "nadamw: text", "nesterov: text", "higher"),
            # "Not more than 0": a margin far below what one solved workload would make.
            Claim("rates a thousand times too small score 0", "broken", 0.0, margin=-1e-9),
            Claim("over all workloads, AdamW scores higher than gradient descent", "adamw", "nesterov", "higher",
                  judged=False),
            Claim("NAdamW reaches more targets than gradient descent", "nadamw: targets reached",
                  "nesterov: targets reached", "higher", judged=False),
            Claim("no place differs when time is counted in seconds", "places that differ by wall time", 0.0,
                  margin=-0.5, judged=False),
        ),
        run=compare,
    )  # fmt: skip
