"""`narrowgauge priors report`: which generalized Gaussian each layer of a model follows, and how well."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.numerics_report import parse_sample
from narrowgauge.commands.output import note, number, print_json, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian
    from narrowgauge.priors.layer_report import LayerReport, ModelReport

SUMMARY = "the generalized Gaussian that each layer's weights follow, and how well it fits"
DESCRIPTION = """\
Fit a generalized Gaussian to the weights of each layer, and compare it with a Gaussian and a Laplace distribution:
Kolmogorov-Smirnov distance, Kullback-Leibler divergence in bits, log-likelihood, AIC. Shape 2 is a Gaussian, 1 Laplace,
smaller ones have heavier tails and code in fewer bits.

MODEL is a .safetensors file, its index or a folder with one of them; the folder of a run of `narrowgauge train` (its
checkpoint); or a run's TOML settings (the model before training).

columns: shape ν and scale α of exp(-(|x|/α)^ν); σ about zero; zeros, the share of exact zeros; KS, the largest distance
of the distribution functions, and p, its p-value (too large where the fit is to the same values: a small one rejects
the fit, a large one proves nothing); KL in bits per value to the fit (GG), a Gaussian (N) and Laplace (L), of which n
values of the model itself have about 207/n; L, the mean
log-likelihood of the fit in nats; best, of the smallest AIC; bits, the entropy of the fit quantised with --step.

examples:
  narrowgauge priors report model.safetensors
  narrowgauge priors report runs/demo-fp8_row --method mle --html report.html
  narrowgauge priors report model.safetensors --only mlp --plot layers.png
  narrowgauge priors report run.toml --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge priors report`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a .safetensors file, a folder, a run's folder, or a run's .toml settings")
    add("--method", default="ratio", help="ratio of moments, or mle (maximum likelihood) (default: %(default)s)")
    add("--only", action="append", metavar="TEXT", help="only tensors whose name contains TEXT; may be repeated")
    add("--all", action="store_true", dest="vectors", help="vectors (biases, gains) too")
    add("--sample", default="1048576", metavar="N",
        help="at most so many elements of each tensor, or all (default: %(default)s)")  # fmt: skip
    add("--step", type=float, default=2.0**-8, help="quantisation step of the column bits (default: %(default)s)")
    add("--html", metavar="FILE", help="also write a page with histograms and fitted curves of all layers")
    add("--plot", metavar="FILE", help="also draw them, as PNG, SVG or PDF (needs matplotlib)")
    add("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Reports, prints, and writes what was asked for."""
    if args.plot:
        from narrowgauge.commands.priors_report_plot import check_matplotlib

        check_matplotlib()  # now, not after minutes of reading
    report = _report(args)
    title = f"Weights of {args.model}"
    if args.html:
        from narrowgauge.atomic_files import replacing
        from narrowgauge.commands.priors_report_page import page

        with replacing(Path(args.html)) as file:
            file.write_text(page(report, title), encoding="utf-8")
        note(f"written: {args.html}")
    if args.plot:
        from narrowgauge.commands.priors_report_plot import draw_report

        note(f"written: {draw_report(report, title, args.plot)}")
    if args.json:
        print_json(to_json(report))
    else:
        print_report(report)
    return 0


def _report(args: argparse.Namespace) -> ModelReport:
    from narrowgauge.commands.priors_model import named_tensors
    from narrowgauge.formats.rounding import choice
    from narrowgauge.priors.fit import FitMethod
    from narrowgauge.priors.layer_report import ModelReporter

    method = choice(FitMethod, args.method, "method")
    if not 0 < args.step < float("inf"):
        raise ValueError(f"step: got {args.step}, accepted: finite numbers > 0")
    count, tensors = named_tensors(args.model, parse_sample(args.sample))
    reporter = ModelReporter(vectors=args.vectors, method=method, step=args.step)
    taken = 0
    with progress("tensors") as show:
        for done, (name, values, shape) in enumerate(tensors):
            show(done, count, name)
            if not args.only or any(text in name for text in args.only):
                reporter.add(name, values, shape)
                taken += 1
    if not taken:
        raise ValueError(f"only: no tensor's name contains {' or '.join(args.only)}")
    return reporter.result()


HEADS = ("<tensor", "<size", "shape", "scale", "σ", "zeros", "KS", "p", "KL GG", "KL N", "KL L", "L", "<best", "bits")


def cells(layer: LayerReport) -> tuple[str, ...]:
    """A layer as a row of the table."""
    models = layer.models
    return (
        layer.name,
        "x".join(map(str, layer.shape)) or "scalar",
        f"{layer.prior.shape:.3f}",
        f"{layer.prior.scale:.3g}",
        f"{layer.std:.3g}",
        f"{100 * layer.zeros:.1f}%",
        f"{models.fitted.ks:.4f}",
        f"{models.fitted.ks_p:.2g}",
        *(f"{model.kl:.4f}" for model in models.families.values()),
        f"{models.fitted.log_likelihood:.4f}",
        models.best,
        f"{layer.bits:.2f}",
    )


def pooled_lines(report: ModelReport) -> list[str]:
    """What all parameters together follow."""
    return [
        f"{label}: {'zeros only' if prior is None else f'shape {prior.shape:.3f}, σ {number(prior.std)}'}"
        for label, prior in (("all tensors as one sample", report.pooled), ("matrices alone", report.matrices))
    ]


def print_report(report: ModelReport) -> None:
    """The table, the pooled fits, and what was left out."""
    print_table(HEADS, [cells(layer) for layer in report.layers])
    print_text()
    for line in pooled_lines(report):
        print_text(line)
    reasons: dict[str, int] = {}
    for why in report.left_out.values():
        reasons[why] = reasons.get(why, 0) + 1
    if reasons:
        print_text("left out: " + ", ".join(f"{count} × {why}" for why, count in reasons.items()))


def _prior(prior: GeneralizedGaussian | None) -> dict[str, float] | None:
    return None if prior is None else {"shape": prior.shape, "scale": prior.scale, "std": prior.std}


def to_json(report: ModelReport) -> dict[str, Any]:
    """Plain data of the whole report."""
    layers = []
    for layer in report.layers:
        models = {
            name: {**(_prior(model.prior) or {}), "ks": model.ks, "ks_p": model.ks_p, "ks_count": model.ks_count,
                   "kl_bits": model.kl, "log_likelihood": model.log_likelihood, "aic": model.aic}
            for name, model in layer.models.families.items()
        }  # fmt: skip
        layers.append(
            {"name": layer.name, "shape": list(layer.shape), "count": layer.count, "zeros": layer.zeros,
             "std": layer.std, "models": models, "best": layer.models.best, "bits": layer.bits,
             "histogram": {"reach": layer.histogram.reach, "density": list(layer.histogram.density)}}
        )  # fmt: skip
    return {
        "step": report.step,
        "pooled": _prior(report.pooled),
        "matrices": _prior(report.matrices),
        "layers": layers,
        "left_out": dict(report.left_out),
    }
