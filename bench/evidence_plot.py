"""The picture of a method's evidence: treatment and control of every seed, claim by claim."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

from narrowgauge.bench.evidence import Evidence
from narrowgauge.train import NOT_SHOWN, OPPOSITE, SHOWN

VERDICT_COLORS = {SHOWN: "C2", NOT_SHOWN: "C1", OPPOSITE: "C3"}
CLAIM_INCHES = 2.6


def plot_evidence(evidence: Evidence, path: Path) -> Path:
    """One panel for each claim: control left, treatment right, a line for each seed, coloured by the verdict.

    PNG, SVG or PDF by the ending. ImportError without matplotlib.
    """
    from matplotlib.figure import Figure

    judged = evidence.judged
    columns = min(4, len(judged))
    rows = -(-len(judged) // columns)
    figure = Figure(figsize=(CLAIM_INCHES * columns, 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, result in zip(panels, judged, strict=False):
        color = VERDICT_COLORS[result.verdict]
        for control, treatment in zip(result.control, result.treatment, strict=True):
            axes.plot((0, 1), (control, treatment), "o-", color=color, linewidth=1, markersize=4)
        control_name = result.claim.control if isinstance(result.claim.control, str) else "limit"
        axes.set_xticks((0, 1), [fill(name, 14) for name in (control_name, result.claim.treatment)], fontsize=7)
        axes.set_xlim(-0.4, 1.4)
        axes.set_title(fill(result.claim.text, 34), fontsize=7)
        mark = "" if result.claim.judged else "told: "
        axes.set_xlabel(f"{mark}{result.verdict}", fontsize=7, color=color)
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(axis="y", color="0.92")
    for axes in panels[len(judged) :]:
        axes.set_axis_off()
    figure.suptitle(f"{evidence.method}: {evidence.verdict}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
