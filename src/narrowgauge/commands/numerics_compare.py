"""`narrowgauge numerics compare`: the error between two files of tensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from narrowgauge.commands.output import note, print_json, print_text

SUMMARY = "every error metric between a tensor and its reference, from files"
DESCRIPTION = """\
Compare the tensors of two .npy or .safetensors files: SQNR, bias, gain, what became zero, was clipped or turned NaN;
with the scheme that made ACTUAL out of REFERENCE also errors in units of the last place, codes used and so on.
Of .safetensors files, all tensors that both have; --tensor chooses one.

With --min-sqnr the command is a test: exit status 1 where a tensor is below, or holds a NaN or an infinity that its
reference does not.

examples:
  narrowgauge numerics compare quantized.npy original.npy
  narrowgauge numerics compare quantized.npy original.npy --scheme e4m3fn/row --png error.png
  narrowgauge numerics compare a.safetensors b.safetensors --tensor layers.0.weight --json
  narrowgauge numerics compare a.safetensors b.safetensors --min-sqnr 30
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `narrowgauge numerics compare`."""
    add = parser.add_argument
    add("actual", type=Path, metavar="ACTUAL", help="the values to judge, dequantised")
    add("reference", type=Path, metavar="REFERENCE", help="what they should be")
    add("--scheme", metavar="S", help="how ACTUAL was quantised, such as e4m3fn/row")
    add("--tensor", metavar="NAME", help="only this tensor of .safetensors files")
    add("--min-sqnr", type=float, metavar="DB", help="exit status 1 for less than DB decibels")
    add("--json", action="store_true", help="print one JSON object: tensor name → metrics")
    add("--png", metavar="FILE", type=Path, help="also write the figure of a single tensor (needs matplotlib)")


def run(args: argparse.Namespace) -> int:
    """Compares and prints; 1 where a tensor does not reach --min-sqnr."""
    from narrowgauge.commands.numerics_files import pairs
    from narrowgauge.numerics import compare

    found, alone = pairs(args.actual, args.reference, args.tensor)
    if args.png and len(found) > 1:
        raise ValueError(f"png: the files have {len(found)} tensors in common; choose one with --tensor")
    reports: dict[str, Any] = {}
    for name, (actual, reference) in found.items():
        try:
            reports[name] = compare(actual, reference, scheme=args.scheme)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name or args.actual}: {error}") from error
    for name in alone:
        note(f"not compared: {name} is in one of the files only")
    if args.json:
        print_json({name: report.to_dict(histograms=False) for name, report in reports.items()})
    else:
        print_text("\n\n".join((f"{name}\n" if name else "") + report.table() for name, report in reports.items()))
    if args.png:
        next(iter(reports.values())).draw(args.png)
        note(f"written: {args.png}")
    return _verdict(reports, args.min_sqnr)


def _verdict(reports: dict[str, Any], least: float | None) -> int:
    bad = []
    for name, report in reports.items():
        created = report.nan_created + report.inf_created
        if least is not None and not (report.sqnr_db >= least and created == 0):
            bad.append(f"{name or 'the tensor'} has {report.sqnr_db:.2f} dB and {created} new NaN or infinities")
    for text in bad:
        note(f"narrowgauge numerics compare: {text}, expected at least {least:g} dB and none")
    return 1 if bad else 0
