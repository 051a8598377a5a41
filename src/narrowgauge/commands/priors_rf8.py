"""`narrowgauge priors rf8`: RF8 beside other 8-bit formats, in tables, as JSON, as a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from narrowgauge.commands.numerics_progress import progress
from narrowgauge.commands.output import note, number, print_json, print_table, print_text

if TYPE_CHECKING:
    from narrowgauge.priors.rf8_compare import Comparison, Verdict

SUMMARY = "RF8 beside E4M3, E5M2, INT8, HiF8 and posits on generalized Gaussian weights"
DESCRIPTION = """\
Cast generalized Gaussian weights to RF8, in its four readings, and to other 8-bit formats: scaled by the largest
magnitude of the tensor, of each row and of 128 neighbours, and directly, without a scale. Shows the signal to
quantisation noise in dB by shape, for the direct cast also by standard deviation, and says where RF8 is better and
where it is not. About a minute.

rf8: the authors' first code; rf8_nearest: the same values, to the nearest; rf8_floor: the text to the letter;
rf8_floor_log: in between. `narrowgauge formats rf8` shows the values.

examples:
  narrowgauge priors rf8
  narrowgauge priors rf8 --shapes 0.5 1 2 --scaling none --std 0.005
  narrowgauge priors rf8 --out bench/results/rf8.json --plot bench/results/rf8.png
"""

SHOWN = {"tensor": "one scale for the tensor", "row": "a scale for each row", "1x128": "a scale for 128 neighbours",
         "none": "no scale (direct cast)"}  # fmt: skip

MEASURES = {
    "sqnr": ("sqnr_db", "SQNR in dB"),
    "worst": ("worst", "largest relative error of what is not flushed"),
    "flushed": ("flushed", "share of the weights flushed to zero"),
    "clipped": ("clipped", "share of the weights clipped"),
}
"""Name → field of a comparison, and what it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--shapes", type=float, nargs="+", metavar="NU", help="shapes (default: twelve, 0.3 to 2.5)")
    parser.add_argument("--formats", nargs="+", metavar="FORMAT", help="formats beside rf8 (default: nine)")
    parser.add_argument("--scaling", nargs="+", choices=tuple(SHOWN), metavar="SCALING",
                        help=f"which of {', '.join(SHOWN)} (default: all)")  # fmt: skip
    parser.add_argument("--std", type=float, default=0.02, help="standard deviation of the weights (default: 0.02)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="samples averaged (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=512, metavar="N",
                        help="rows of 2048 weights of a sample (default: %(default)s)")  # fmt: skip
    parser.add_argument("--measure", choices=tuple(MEASURES), default="sqnr",
                        help="what the tables show (default: %(default)s)")  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", help="also draw it, as PNG, SVG or PDF (needs matplotlib)")
    parser.add_argument("--out", metavar="FILE", help="also write the JSON object to a file")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args: argparse.Namespace) -> int:
    """Compares, prints, and writes what was asked for."""
    from narrowgauge.atomic_files import replacing
    from narrowgauge.priors.rf8_compare import FORMATS, SHAPES, STDS, compare_formats, verdicts
    from narrowgauge.strict_json import dumps

    if args.rows < 1:
        raise ValueError(f"--rows: got {args.rows}, accepted: at least 1")
    settings = {
        "shapes": args.shapes or list(SHAPES),
        "formats": list(dict.fromkeys(["rf8", *(args.formats or FORMATS)])),
        "scalings": args.scaling or list(SHOWN),
        "std": args.std,
        "seeds": args.seeds,
        "size": [args.rows, 2048],
        "stds": list(STDS),
        "shapes_of_stds": [1.0, 2.0],
    }
    common = {"formats": settings["formats"], "size": (args.rows, 2048), "seeds": args.seeds}
    with progress("rf8") as show:
        by_shape = compare_formats(
            settings["shapes"], scalings=settings["scalings"], stds=[args.std], show=show, **common
        )
        by_std = []
        if "none" in settings["scalings"]:
            by_std = compare_formats(settings["shapes_of_stds"], scalings=["none"], stds=STDS, show=show, **common)
    found, found_by_std = verdicts(by_shape), verdicts(by_std)
    content = {
        "settings": settings,
        "by_shape": by_shape,
        "by_std": by_std,
        "verdicts": {"by_shape": found, "by_std": found_by_std},
    }
    if args.out:
        with replacing(Path(args.out)) as partial:
            partial.write_text(dumps(content) + "\n", encoding="utf-8")
        note(f"written: {args.out}")
    if args.plot:
        from narrowgauge.commands.priors_rf8_plot import draw_comparison

        note(f"written: {draw_comparison(by_shape, by_std, args.plot)}")
    if args.json:
        print_json(content)
        return 0
    for scaling in settings["scalings"]:
        of_scaling = [row for row in by_shape if row.scaling == scaling]
        title = f"{MEASURES[args.measure][1]} by shape: {SHOWN[scaling]}" + (
            f", std {number(args.std)}" if scaling == "none" else ""
        )
        _print_table(title, of_scaling, "shape", args.measure)
        _print_verdicts([v for v in found if v.scaling == scaling], "shape")
    for shape in settings["shapes_of_stds"] if by_std else ():
        _print_table(f"{MEASURES[args.measure][1]} by standard deviation: no scale, shape {shape:g}",
                     [row for row in by_std if row.shape == shape], "std", args.measure)  # fmt: skip
        _print_verdicts([v for v in found_by_std if v.shape == shape], "std")
    return 0


def _print_table(title: str, rows: Sequence[Comparison], axis: str, measure: str) -> None:
    """Formats down, `axis` across; the best of each column has a star."""
    places = list(dict.fromkeys(getattr(row, axis) for row in rows))
    names = list(dict.fromkeys(row.format for row in rows))
    cell = {(row.format, getattr(row, axis)): getattr(row, MEASURES[measure][0]) for row in rows}
    pick = max if measure == "sqnr" else min
    best = {place: pick(cell[name, place] for name in names) for place in places}

    def text(value: float, best_value: float) -> str:
        shown = f"{value:.1f}" if measure == "sqnr" else number(value, 2)
        return shown + ("*" if value == best_value else " ")

    body = [(name, *(text(cell[name, place], best[place]) for place in places)) for name in names]
    print_table(("<", *(number(place, 3) for place in places)), body, title=title)


def _print_verdicts(found: Sequence[Verdict], axis: str) -> None:
    """One line for each other format: where rf8 is above it."""
    others = list(dict.fromkeys(name for verdict in found for name in (*verdict.beats, *verdict.loses_to)))
    for other in others:
        above = [getattr(verdict, axis) for verdict in found if other in verdict.beats]
        if len(above) == len(found):
            text = "everywhere"
        else:
            text = f"at {axis} {', '.join(number(value, 3) for value in above)}" if above else "nowhere"
        print_text(f"  SQNR of rf8 above that of {other}: {text}")
    print_text()
