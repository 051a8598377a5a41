"""The curves of several runs in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from narrowgauge.commands.run_folder import Run

SMOOTHED = ("loss", "grad_norm")
"""Metrics of single batches: the curve is a running mean, the values are drawn pale behind it."""


def plot_runs(runs: Mapping[str, Run], metrics: Sequence[str], path: Path) -> Path:
    """A panel for each metric, a curve for each run; PNG, SVG or PDF by the ending.

    Raises ValueError where no metric is chosen, ImportError without matplotlib.
    """
    from matplotlib.figure import Figure

    if not metrics:
        raise ValueError("metric: the runs have none that could be drawn")
    figure = Figure(figsize=(4.6 * len(metrics), 3.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for index, (label, run) in enumerate(runs.items()):
            points = run.metrics.get(metric, [])
            steps, values = [step for step, _ in points], [value for _, value in points]
            color = f"C{index % 10}"
            if metric in SMOOTHED and len(values) > 20:
                axes.plot(steps, values, color=color, alpha=0.2, linewidth=0.6)
                values = running_mean(values, len(values) // 20)
            axes.plot(steps, values, color=color, label=label, linewidth=1.4)
        axes.set(xlabel="step", title=metric)
        axes.grid(color="0.92")
    figure.axes[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of the last `width` values up to each."""
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - width] if index >= width else 0.0)
        means.append(total / min(index + 1, width))
    return means
