"""The picture of `narrowgauge priors report`: a small histogram with fitted curves for each layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from narrowgauge.priors.layer_report import LayerReport, ModelReport

COLOURS = {"generalized": "#c1121f", "gaussian": "#2a6f97", "laplace": "#e09f3e"}
COLUMNS = 4
MOST_LAYERS = 120


def check_matplotlib() -> None:
    """ValueError, with the way out, where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ValueError("--plot: needs matplotlib, which is not installed: pip install 'narrowgauge[plots]'") from None


def draw_report(report: ModelReport, title: str, path: str | Path) -> Path:
    """Writes the figure (PNG, SVG or PDF by the ending) and returns its path. ValueError without matplotlib, and for
    more than 120 layers."""
    check_matplotlib()
    from matplotlib.figure import Figure

    layers = report.layers
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"--plot: {len(layers)} layers are too many for one picture; accepted: {MOST_LAYERS} (--only)")
    columns = min(COLUMNS, len(layers))
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(max(3.4 * columns, 6.8), 2.6 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    figure.suptitle(f"{title}: density (logarithmic), fitted curves", fontsize=11)
    for axis, layer in zip(axes, layers, strict=False):
        _panel(axis, layer)
    for axis in axes[len(layers) :]:
        axis.set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    return target


def _panel(axis: Any, layer: LayerReport) -> None:
    histogram = layer.histogram
    density = np.array(histogram.density)
    seen = density[density > 0]
    axis.stairs(np.where(density > 0, density, np.nan),
                np.linspace(-histogram.reach, histogram.reach, len(density) + 1),
                fill=True, baseline=seen.min() / 2, color="#b8c0cc", label="weights")  # fmt: skip
    # An even number of points: small shapes have no finite derivative at 0, and steep ones no room for it.
    x = np.linspace(-histogram.reach, histogram.reach, 400)
    for name, model in layer.models.families.items():
        axis.plot(x, model.prior.pdf(x), color=COLOURS[name], linewidth=1.1, label=name)
    axis.set_yscale("log")
    axis.set_ylim(seen.min() / 2, 3 * seen.max())
    axis.set_title(f"{layer.name}\nshape {layer.prior.shape:.2f}, KL {layer.models.fitted.kl:.4f} bits", fontsize=8)
    axis.tick_params(labelsize=7)
    for side in ("right", "top"):
        axis.spines[side].set_visible(False)
