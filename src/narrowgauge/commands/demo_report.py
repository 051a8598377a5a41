"""The demo's table, JSON and plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from narrowgauge.commands.demo_run import DemoResult, RunResult
from narrowgauge.commands.output import megabytes, print_table, print_text
from narrowgauge.nn import SLOTS
from narrowgauge.strict_json import dumps

SMOOTHING = 0.9
CURVES = ("train_curve", "val_curve")


def summary(result: DemoResult) -> dict[str, Any]:
    """The numbers, without the curves: what `--json` prints."""
    return {
        "fp32": _run(result.fp32),
        "quantized": {**_run(result.quantized), "sqnr_db": result.sqnr_db},
        "gap_percent": result.gap_percent,
        "state_bytes_per_param": result.quantized.state_bytes_per_param,
        "seconds": result.seconds,
        "num_parameters": result.num_parameters,
        "config": asdict(result.config),
        "device": result.device,
        "machine": asdict(result.machine),
        "layers": result.layers.to_dict(),
        "sample": result.sample,
    }


def _run(run: RunResult) -> dict[str, Any]:
    return {name: value for name, value in asdict(run).items() if name not in CURVES}


def print_report(result: DemoResult) -> None:
    """The table, how it ran, and the sample."""
    config, fp32, narrow = result.config, result.fp32, result.quantized
    loss = (f"{fp32.val_loss:.4f}", f"{narrow.val_loss:.4f}", f"{result.gap_percent:+.2f} %")
    per_param = (f"{fp32.state_bytes_per_param:.2f}", f"{narrow.state_bytes_per_param:.2f}", "")
    saved = (fp32.saved_for_backward_bytes, narrow.saved_for_backward_bytes)
    rows = [
        ("validation loss (nats per byte)", *loss),
        ("optimizer state", *_compared((fp32.state_bytes, narrow.state_bytes), megabytes)),
        ("  bytes per parameter", *per_param),
        ("saved for backward", *_compared(saved, megabytes)),
        ("time per step", *_compared((fp32.step_ms, narrow.step_ms), lambda value: f"{value:.0f} ms")),
        (
            "bytes of text per second",
            *_compared((fp32.tokens_per_s, narrow.tokens_per_s), lambda value: f"{value:,.0f}"),
        ),
    ]
    for slot in SLOTS:
        seen = result.sqnr_db.get(slot)
        text = "not quantised" if seen is None else f"{seen['mean']:.1f} dB"
        worst = "" if seen is None else f"min {seen['min']:.1f}"
        rows.append((f"SQNR of {slot}", "", text, worst))
    title = (
        f"{result.num_parameters:,} parameters, {config.steps} steps, seed {config.seed}, {result.seconds:.0f} s in all"
    )
    print_table(("<", "fp32 + AdamW", f"{config.recipe} + {config.state}", "against fp32"), rows, title=title)
    print_text()
    for line in how_it_ran(result):
        print_text(line)
    print_text(f"\nThe quantised model writes:\n{result.sample}")


def _compared(values: tuple[float, float], text: Callable[[float], str]) -> tuple[str, str, str]:
    theirs, ours = values
    return text(theirs), text(ours), f"× {ours / theirs:.2f}"


def how_it_ran(result: DemoResult) -> list[str]:
    """What was quantised, on which implementation, what was left alone and why."""
    converted = result.layers.converted
    lines = [f"{len(converted)} linear layers in {result.config.recipe}, on {result.device}:"]
    runs = Counter((gemm, info.operands, info.runs) for row in converted for gemm, info in row.gemms.items())
    lines += [f"  {gemm}: {operands}: {text}" for gemm, operands, text in runs]
    reasons = Counter(row.reason for row in result.layers.rows if not row.gemms)
    for reason, count in reasons.items():
        names = [row.name for row in result.layers.rows if row.reason == reason and not row.gemms]
        shown = ", ".join(names[:3]) + (" …" if count > 3 else "")
        lines.append(f"  left in high precision: {shown} ({reason})")
    lines.append("  everything else (embedding, norms, attention, loss) in fp32")
    return lines


def write_files(result: DemoResult, folder: Path) -> list[str]:
    """Writes demo.json and loss.png; a line for each about where it is, or why it is not."""
    folder.mkdir(parents=True, exist_ok=True)
    content = summary(result)
    for name, run in (("fp32", result.fp32), ("quantized", result.quantized)):
        content[name] |= {curve: _curve(getattr(run, curve)) for curve in CURVES}
    (folder / "demo.json").write_text(dumps(content) + "\n", encoding="utf-8")
    lines = [f"written: {folder / 'demo.json'}"]
    if find_spec("matplotlib") is None:
        return [*lines, "no loss.png: matplotlib is not installed (pip install 'narrowgauge[plots]')"]
    plot(result, folder / "loss.png")
    return [*lines, f"written: {folder / 'loss.png'}"]


def _curve(curve: tuple[list[int], list[float]]) -> dict[str, Any]:
    steps, values = curve
    return {"steps": steps, "loss": values}


def plot(result: DemoResult, path: Path) -> None:
    """Both runs' training loss (exponential mean) and validation loss, and their relative distance, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    losses, distance = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    label = f"{result.config.recipe} + {result.config.state}"
    smooth = []
    for name, run, color in (("fp32 + AdamW", result.fp32, "0.35"), (label, result.quantized, "C1")):
        steps, values = run.train_curve
        smooth.append(_smoothed(values))
        losses.plot(steps, smooth[-1], color=color, linewidth=1, label=f"{name}, training")
        losses.plot(*run.val_curve, "o", color=color, markersize=4, label=f"{name}, validation")
    gaps = [100 * (ours / theirs - 1) for theirs, ours in zip(*smooth, strict=True)]
    distance.plot(result.fp32.train_curve[0], gaps, color="C1", linewidth=1)
    distance.axhline(0, color="0.35", linewidth=0.8)
    losses.set(ylabel="nats per byte", title=f"Llama, {result.num_parameters:,} parameters, seed {result.config.seed}")
    losses.legend(frameon=False)
    distance.set(xlabel="step", ylabel="training loss,\n% above fp32")
    figure.savefig(path, dpi=120)


def _smoothed(values: list[float]) -> list[float]:
    """Exponential mean, free of the bias towards a start at zero."""
    mean, weight, result = 0.0, 0.0, []
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        result.append(mean / weight)
    return result
