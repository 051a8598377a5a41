"""`narrowgauge priors deepshape`: reshapes the weights of a safetensors file towards a generalized Gaussian."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrowgauge.commands.output import note, number, print_json, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.priors.deepshape import DeepShapeReport
    from narrowgauge.priors.rate import Rate

SUMMARY = "reshape the weights of a checkpoint towards a generalized Gaussian that codes in fewer bits"
DESCRIPTION = """\
Reshape the weights in a .safetensors file towards a generalized Gaussian of smaller shape and scale (DeepShape), write
them to another file, and show what it did: fitted and target distribution, error, bits per parameter before and after
(entropy, and Exp-Golomb codes of order 0 and of the best order, of values rounded to a step).

Two methods: `published`, the histogram specification of the paper's first code, which needs some hundred thousand
weights in one sample; `quantile`, ours, for tensors of any size. Most of what `published` saves it saves by making the
weights smaller, and plain scaling or a coarser step does nearly as well: look at both before you trust the bits. The
paper trains a few epochs afterwards.

Without OUT nothing is written.

examples:
  narrowgauge priors deepshape model.safetensors
  narrowgauge priors deepshape model.safetensors reshaped.safetensors --method quantile --per-tensor --strength 0.5
  narrowgauge priors deepshape model.safetensors --shape-scale 1 --std-scale 0.7 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("file", metavar="FILE", help="a .safetensors file")
    parser.add_argument("out", nargs="?", metavar="OUT", help="where to write the reshaped weights")
    parser.add_argument("--method", choices=("published", "quantile"), default="published",
                        help="how (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--shape-scale", type=float, default=0.8, metavar="S", help="factor of the shape (default: 0.8)"
    )
    parser.add_argument("--std-scale", type=float, metavar="S",
                        help="factor of the scale α (published: 0.6) or of the standard deviation (quantile: 1)"
                        )  # fmt: skip
    parser.add_argument("--strength", type=float, default=1.0, metavar="S",
                        help="blend: 0 for the weights as they are, 1 for the target (default: 1)")  # fmt: skip
    parser.add_argument(
        "--per-tensor", action="store_true", help="fit and reshape each tensor by itself, not all as one"
    )
    parser.add_argument("--matrices-only", action="store_true", help="leave tensors of fewer than two axes alone")
    parser.add_argument(
        "--step", type=float, metavar="STEP", help="of the grid that bits are counted on (default: 2^-8)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Reads, reshapes, writes, and shows what it did."""
    import safetensors.torch

    from narrowgauge.atomic_files import replacing
    from narrowgauge.priors.deepshape import deepshape
    from narrowgauge.priors.rate import STEP

    tensors, metadata = _read(Path(args.file))
    chosen = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.numel() and (tensor.ndim >= 2 or not args.matrices_only)
    ]
    if not chosen:
        raise ValueError(f"{args.file}: has no weights to reshape among {len(tensors)} tensors")
    made, report = deepshape(
        [tensors[name] for name in chosen],
        method=args.method,
        shape_scale=args.shape_scale,
        std_scale=args.std_scale,
        strength=args.strength,
        pooled=not args.per_tensor,
        step=STEP if args.step is None else args.step,
        names=chosen,
    )
    if args.out:
        with replacing(Path(args.out)) as partial:
            safetensors.torch.save_file({**tensors, **dict(zip(chosen, made, strict=True))}, partial, metadata)
        note(f"written: {args.out}")
    if args.json:
        print_json(report)
    else:
        _print(report)
    return 0


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str] | None]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file() or path.suffix != ".safetensors":
        raise ValueError(f"FILE: got {path}, accepted: a .safetensors file (a pickle can run code when it is loaded)")
    try:
        with safe_open(path, framework="pt") as reader:
            return {name: reader.get_tensor(name) for name in reader.keys()}, reader.metadata()  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"FILE: {path} cannot be read as safetensors: {error}") from error


def _print(report: DeepShapeReport) -> None:
    heads = (
        "<sample",
        "weights",
        "shape",
        "target",
        "std ×",
        "relative MSE",
        "correlation",
        "moved %",
        "entropy",
        "after",
    )
    rows = [
        (
            group.name,
            f"{group.count:,}",
            number(group.fitted.shape, 3),
            number(group.target.shape, 3),
            f"{group.std_ratio:.3f}",
            number(group.relative_mse, 3),
            f"{group.correlation:.4f}",
            f"{100 * group.moved:.1f}",
            f"{group.before.entropy:.3f}",
            f"{group.after.entropy:.3f}",
        )
        for group in report.groups
    ]
    print_table(heads, rows, title=f"DeepShape, {report.method}, strength {report.strength:g}")
    for name, reason in report.left.items():
        print_text(f"left alone: {name}: {reason}")
    print_text(f"\nbits per parameter in steps of {report.before.step:g}, all tensors as one:")
    print_table(
        ("<", "entropy", "Exp-Golomb 0", "best order", "<"),
        [_bits("before", report.before), _bits("after", report.after)],
    )


def _bits(label: str, rate: Rate) -> tuple[str, ...]:
    return (
        label,
        f"{rate.entropy:.3f}",
        f"{rate.exp_golomb[0]:.3f}",
        f"{rate.exp_golomb[rate.best_order]:.3f}",
        f"(order {rate.best_order})",
    )
