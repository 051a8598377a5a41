"""DeepShape's trade-off: loss against bits per parameter, over shapes and strengths, beside rounding alone.

Every point reshapes the weights as they were at the start, rounds them to the grid of a step, as a file would hold
them, and measures the loss of that model. The control is strength 0: the same weights, rounded only. A point is worth
its bits only where it lies below the control's line, since a coarser step saves bits, too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from narrowgauge.priors.deepshape import DeepShapeMethod, deepshape_
from narrowgauge.priors.rate import STEP, measure_rate


@dataclass(frozen=True)
class TradeOffPoint:
    """shape_scale 1 and strength 0 are the control. Bits are per parameter of what was reshaped and rounded; see
    `narrowgauge.priors.Rate`."""

    shape_scale: float
    std_scale: float | None
    strength: float
    step: float
    loss: float
    entropy: float
    exp_golomb: float
    best_exp_golomb: float


@torch.no_grad()
def trade_off(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    shapes: Sequence[float] = (0.4, 0.6, 0.8),
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    *,
    method: DeepShapeMethod | str = "quantile",
    std_scale: float | None = None,
    pooled: bool = False,
    matrices_only: bool = True,
    steps: Sequence[float] = (STEP,),
    recover: Callable[[nn.Module], None] | None = None,
) -> list[TradeOffPoint]:
    """Points for the control and for every shape × strength, each at every step.

    evaluate(model): a loss, lower is better. shapes: values of `shape_scale`; strengths: above 0. method, std_scale,
    pooled, matrices_only: as in `deepshape_`; what they select is also what is rounded. recover(model): trains the
    model between reshaping and rounding, before the control too (with gradients on).

    The model is as before afterwards, whatever happens. ValueError for strengths outside (0, 1], no steps, and what
    `deepshape_` refuses.
    """
    if any(not 0.0 < strength <= 1.0 for strength in strengths):
        raise ValueError(
            f"strengths: got {tuple(strengths)}, accepted: above 0 (the control is there always), at most 1"
        )
    if not steps or not all(step > 0.0 and math.isfinite(step) for step in steps):
        raise ValueError(f"steps: got {tuple(steps)}, accepted: at least one, finite numbers > 0")
    settings = [(1.0, None, 0.0), *((shape, std_scale, strength) for shape in shapes for strength in strengths)]
    kept = copy.deepcopy(model.state_dict())
    points: list[TradeOffPoint] = []
    try:
        for shape, std, strength in settings:
            model.load_state_dict(kept)
            if strength > 0.0:
                deepshape_(model, method=method, shape_scale=shape, std_scale=std, strength=strength, pooled=pooled,
                           matrices_only=matrices_only)  # fmt: skip
            if recover is not None:
                with torch.enable_grad():
                    recover(model)
            points += [_point(model, evaluate, matrices_only, step, (shape, std, strength)) for step in steps]
    finally:
        model.load_state_dict(kept)
    return points


def _point(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    matrices_only: bool,
    step: float,
    setting: tuple[float, float | None, float],
) -> TradeOffPoint:
    """Of the model as it is, which is so again afterwards."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim >= 2 or not matrices_only]
    rate = measure_rate(weights, step)
    exact = [weight.clone() for weight in weights]
    for weight in weights:
        weight.copy_((weight.double() / step).round() * step)
    try:
        loss = float(evaluate(model))
    finally:
        for weight, value in zip(weights, exact, strict=True):
            weight.copy_(value)
    lengths = rate.exp_golomb
    return TradeOffPoint(*setting, step, loss, rate.entropy, lengths[0], lengths[rate.best_order])


def plot_trade_off(points: Sequence[TradeOffPoint], path: str | Path, *, bits: str = "entropy") -> Path:
    """Draws loss over bits per parameter, a line for each shape (and step) and one for the control; returns the path.

    bits: "entropy", "exp_golomb" or "best_exp_golomb". path: PNG, SVG or PDF by its ending. ValueError without
    matplotlib, for no points and other bits.
    """
    if bits not in ("entropy", "exp_golomb", "best_exp_golomb"):
        raise ValueError(f"bits: got {bits!r}, accepted: entropy, exp_golomb, best_exp_golomb")
    if not points:
        raise ValueError("points: got none, accepted: at least one")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plot: needs matplotlib, which is not installed: pip install 'narrowgauge[plots]'") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    for label, line in _lines(points).items():
        ordered = sorted(line, key=lambda point: float(getattr(point, bits)))
        x, y = [getattr(point, bits) for point in ordered], [point.loss for point in ordered]
        is_control = label == _CONTROL
        axis.plot(x, y, "o", linestyle="--" if is_control else "-", color="black" if is_control else None,
                  markersize=4, label=label)  # fmt: skip
    axis.set(xlabel=f"bits per parameter ({bits.replace('_', ' ')})", ylabel="loss of the rounded model")
    axis.grid(True, color="#e3e5e8", linewidth=0.6)
    axis.legend(fontsize=8, frameon=False)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)
    return target


_CONTROL = "rounding alone"


def _lines(points: Sequence[TradeOffPoint]) -> dict[str, list[TradeOffPoint]]:
    """Points by line. Where there is one step, a shape's line begins at the control's point."""
    control = [point for point in points if point.strength == 0.0]
    lines = {_CONTROL: control} if control else {}
    for point in points:
        if point.strength > 0.0:
            label = f"shape × {point.shape_scale:g}, step {point.step:.3g}"
            start = [other for other in control if other.step == point.step]
            lines.setdefault(label, start.copy()).append(point)
    return lines
